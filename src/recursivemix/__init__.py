"""RecursiveMix: mixed-sample training with a memory (arXiv 2203.06844)."""

from recursivemix.mixing import (
    DLB,
    MIXERS,
    AlignMix,
    CutMix,
    Draw,
    ManifoldMix,
    MeanTeacher,
    MixedBatch,
    Mixer,
    MixUp,
    NoMix,
    RecursiveMix,
    ResizeMix,
    TemporalEnsembling,
    TransMix,
    create_mixer,
)
from recursivemix.models.region import RegionModel, region_pool

__version__ = "0.1.0"

__all__ = [
    "DLB",
    "MIXERS",
    "AlignMix",
    "CutMix",
    "Draw",
    "ManifoldMix",
    "MeanTeacher",
    "MixUp",
    "MixedBatch",
    "Mixer",
    "NoMix",
    "RecursiveMix",
    "RegionModel",
    "ResizeMix",
    "TemporalEnsembling",
    "TransMix",
    "__version__",
    "create_mixer",
    "region_pool",
]
