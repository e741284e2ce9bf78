"""RecursiveMix: mixed-sample training with a memory (arXiv 2203.06844)."""

from recursivemix.mixing import (
    MIXERS,
    CutMix,
    Draw,
    MixedBatch,
    Mixer,
    MixUp,
    NoMix,
    RecursiveMix,
    ResizeMix,
    create_mixer,
)
from recursivemix.models.region import RegionModel, region_pool

__version__ = "0.1.0"

__all__ = [
    "MIXERS",
    "CutMix",
    "Draw",
    "MixUp",
    "MixedBatch",
    "Mixer",
    "NoMix",
    "RecursiveMix",
    "RegionModel",
    "ResizeMix",
    "__version__",
    "create_mixer",
    "region_pool",
]
