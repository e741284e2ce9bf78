"""Mixing of batches. Imports torch alone and nothing of the rest of the package."""

from __future__ import annotations

from typing import Any

from torch import nn

from .alignmix import AlignMix
from .alternate import Alternate
from .batch import MixedBatch
from .checks import options_named
from .cutmix import CutMix
from .cutout import Cutout
from .dense import DenseBatch, DenseRecursiveMix
from .dense_targets import DenseTarget
from .dlb import DLB
from .draw import Draw
from .fmix import FMix
from .gridmix import GridMix
from .history import History
from .manifoldmix import ManifoldMix
from .mean_teacher import MeanTeacher
from .mixer import Mixer
from .mixup import MixUp
from .nomix import NoMix
from .paste import Interpolation
from .recursive import RecursiveMix
from .resizemix import ResizeMix
from .saliencymix import SaliencyMix
from .smoothmix import SmoothMix
from .temporal_ensembling import TemporalEnsembling
from .transmix import TransMix

MIXERS: dict[str, type[Mixer]] = {
    "none": NoMix,
    "cutout": Cutout,
    "mixup": MixUp,
    "manifoldmix": ManifoldMix,
    "cutmix": CutMix,
    "saliencymix": SaliencyMix,
    "gridmix": GridMix,
    "fmix": FMix,
    "smoothmix": SmoothMix,
    "resizemix": ResizeMix,
    "alignmix": AlignMix,
    "transmix": TransMix,
    "recursivemix": RecursiveMix,
    "alternate": Alternate,
    "temporal_ensembling": TemporalEnsembling,
    "mean_teacher": MeanTeacher,
    "dlb": DLB,
}


def create_mixer(name: str, num_classes: int, model: nn.Module | None = None, **options: Any) -> Mixer:
    """Create a mixer by its lower-case name, as on the command line.

    Args:
        name: A key of `MIXERS`.
        num_classes: K.
        model: The network, for a method that works inside it; the others ignore it.
        options: Keyword arguments of that mixer.

    Raises:
        ValueError: An unknown name, an option that this mixer does not have, or a missing network.
    """
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}; there are {', '.join(MIXERS)}")
    kind = MIXERS[name]
    arguments: tuple[Any, ...] = (num_classes,)
    if kind.needs_model:
        if model is None:
            raise ValueError(
                f"mixer {name!r} works inside the network: create_mixer({name!r}, num_classes, model)"
            )
        arguments = (num_classes, model)
    with options_named(name, kind):
        return kind(*arguments, **options)


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
    "History",
    "Interpolation",
    "ManifoldMix",
    "MeanTeacher",
    "MixUp",
    "MixedBatch",
    "Mixer",
    "NoMix",
    "RecursiveMix",
    "ResizeMix",
    "SaliencyMix",
    "SmoothMix",
    "TemporalEnsembling",
    "TransMix",
    "create_mixer",
]
