"""RecursiveMix: mixed-sample training with a memory (arXiv 2203.06844).

The public names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "DLB",
    "MIXERS",
    "AlignMix",
    "Alternate",
    "CutMix",
    "Cutout",
    "DenseBatch",
    "DenseRecursiveMix",
    "DenseTarget",
    "Draw",
    "FMix",
    "GridMix",
    "ManifoldMix",
    "MeanTeacher",
    "MixUp",
    "MixedBatch",
    "Mixer",
    "NoMix",
    "RecursiveMix",
    "RegionModel",
    "ResizeMix",
    "SaliencyMix",
    "SmoothMix",
    "TemporalEnsembling",
    "TransMix",
    "__version__",
    "create_mixer",
    "load",
    "region_pool",
]

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports the name
    from recursivemix.mixing import (
        DLB,
        MIXERS,
        AlignMix,
        Alternate,
        CutMix,
        Cutout,
        DenseBatch,
        DenseRecursiveMix,
        DenseTarget,
        Draw,
        FMix,
        GridMix,
        ManifoldMix,
        MeanTeacher,
        MixedBatch,
        Mixer,
        MixUp,
        NoMix,
        RecursiveMix,
        ResizeMix,
        SaliencyMix,
        SmoothMix,
        TemporalEnsembling,
        TransMix,
        create_mixer,
    )
    from recursivemix.models.region import RegionModel, region_pool
    from recursivemix.models.trained import load
else:
    _SUBMODULES = {"RegionModel": "models.region", "load": "models.trained", "region_pool": "models.region"}
    """Where a name comes from, if not from ``mixing``."""

    def __getattr__(name: str) -> Any:
        if name in ("mixing", "models"):
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_SUBMODULES.get(name, 'mixing')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
