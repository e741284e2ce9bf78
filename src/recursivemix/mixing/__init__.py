"""How a batch is mixed. Imports torch alone and nothing of the rest of the package."""

from __future__ import annotations

from typing import Any

from .batch import MixedBatch
from .boxes import Interpolation
from .cutmix import CutMix
from .draw import Draw
from .mixer import Mixer
from .mixup import MixUp
from .nomix import NoMix
from .recursive import History, RecursiveMix
from .resizemix import ResizeMix

MIXERS: dict[str, type[Mixer]] = {
    "none": NoMix,
    "mixup": MixUp,
    "cutmix": CutMix,
    "resizemix": ResizeMix,
    "recursivemix": RecursiveMix,
}


def create_mixer(name: str, num_classes: int, **options: Any) -> Mixer:
    """A mixer by its lower-case name, as on the command line.

    Raises:
        ValueError: an unknown name, or an option that this mixer does not have.
    """
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}; there are {', '.join(MIXERS)}")
    try:
        return MIXERS[name](num_classes, **options)
    except TypeError as error:
        raise ValueError(f"mixer {name!r} does not take these options: {error}") from error


__all__ = [
    "MIXERS",
    "CutMix",
    "Draw",
    "History",
    "Interpolation",
    "MixUp",
    "MixedBatch",
    "Mixer",
    "NoMix",
    "RecursiveMix",
    "ResizeMix",
    "create_mixer",
]
