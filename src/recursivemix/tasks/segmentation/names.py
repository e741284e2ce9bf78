"""Registry of segmentation heads. Standard library only.

To add a head, write its module in this folder and add one line here. The value of an entry is
``MODULE:OBJECT``: the object is called with the channels of the backbone's maps and the decoder's width,
and returns a decoder with the call of segmentation_models.pytorch's.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

HEADS = {"upernet": "decoders:upernet", "pspnet": "decoders:pspnet"}
"""Decoders of a backbone's maps; the choices of ``--head``."""

if TYPE_CHECKING:  # a type checker cannot evaluate a Literal that is made from a registry
    Head = str
else:
    Head = Literal[tuple(HEADS)]


def load_head(name: str) -> Any:
    """Import what builds a head's decoder.

    Raises:
        ValueError: the registry has no head of this name.
    """
    if name not in HEADS:
        raise ValueError(f"--head must be one of {', '.join(HEADS)}; got {name!r}")
    return resolve_name(f"recursivemix.tasks.segmentation.{HEADS[name]}")
