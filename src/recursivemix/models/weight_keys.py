"""The names and shapes of weights: those of a file beside those of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeMismatch:
    """A key of both sides whose tensors differ in shape."""

    key: str
    here: Shape
    """In the file."""
    there: Shape
    """In the network."""

    def __str__(self) -> str:
        return f"{self.key} is {self.here} here, {self.there} there"


@dataclass(frozen=True)
class Keys:
    """The keys of a file beside those of a network."""

    matched: tuple[str, ...] = ()
    """On both sides, with the same shape."""
    missing: tuple[str, ...] = ()
    """In the network only."""
    unexpected: tuple[str, ...] = ()
    """In the file only."""
    mismatched: tuple[ShapeMismatch, ...] = ()

    @property
    def same(self) -> bool:
        """Whether all keys and shapes match."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def total(self) -> int:
        """Number of weights of the network."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} of its {self.total} keys match, "
            f"{len(self.missing)} missing{_some(self.missing)}, "
            f"{len(self.unexpected)} unexpected{_some(self.unexpected)}, "
            f"{len(self.mismatched)} of another shape{_some(self.mismatched)}"
        )


def compare_keys(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> Keys:
    """Compare the weights of a file (here) with those of a network (there); keys keep their order."""
    shared = [key for key in there if key in here]
    return Keys(
        matched=tuple(key for key in shared if here[key].shape == there[key].shape),
        missing=tuple(key for key in there if key not in here),
        unexpected=tuple(key for key in here if key not in there),
        mismatched=tuple(
            ShapeMismatch(key, tuple(here[key].shape), tuple(there[key].shape))
            for key in shared
            if here[key].shape != there[key].shape
        ),
    )


def _some(names: tuple[object, ...]) -> str:
    return f" ({few(names)})" if names else ""


def few(names: tuple[object, ...]) -> str:
    """Return the first three of some names, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def rename_by_order(weights: dict[str, Tensor], there: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under another library's keys, matched by their order and reshaped where sizes agree.

    timm and torchvision register the layers of many networks in the same order; the first linear layer of
    VGG is a convolution in timm. Weights that have the keys already, or differ in number, are returned
    unchanged.
    """
    if set(weights) == set(there) or len(weights) != len(there):
        return weights
    return {
        key: value.reshape(wanted.shape) if value.numel() == wanted.numel() else value
        for (key, wanted), value in zip(there.items(), weights.values(), strict=True)
    }
