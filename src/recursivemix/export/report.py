"""What an export did: which keys a library knows, how far its logits are off, how to load the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeMismatch:
    """A key that both sides have, with tensors of different shapes."""

    key: str
    here: Shape
    """In the checkpoint."""
    there: Shape
    """In the library's network."""

    def __str__(self) -> str:
        return f"{self.key} is {self.here} here, {self.there} there"


@dataclass(frozen=True)
class Keys:
    """The keys of a checkpoint beside those of a library's network."""

    matched: tuple[str, ...] = ()
    """On both sides, in one shape."""
    missing: tuple[str, ...] = ()
    """In the library's network alone."""
    unexpected: tuple[str, ...] = ()
    """In the checkpoint alone."""
    mismatched: tuple[ShapeMismatch, ...] = ()

    @property
    def same(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        return (
            f"{len(self.matched)} of its {total} keys match, "
            f"{len(self.missing)} missing{_some(self.missing)}, "
            f"{len(self.unexpected)} unexpected{_some(self.unexpected)}, "
            f"{len(self.mismatched)} of another shape{_some(self.mismatched)}"
        )


def compare_keys(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> Keys:
    """Sort the keys of a checkpoint (here) and of a library's network (there), each side in its order."""
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


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and what was found when it was read back."""

    to: str
    model: str
    """Its name in the checkpoint."""
    path: Path
    """The file, or for Hugging Face the folder."""
    keys: Keys | None
    """Beside the library's network; None for ONNX, which has no keys of its own."""
    max_difference: float | None
    """Largest absolute difference of a logit, read back from the file; None if not every key loads."""
    scale: float
    """Largest absolute logit of the checkpoint, on the same images."""
    loading_call: str
    """Python that loads the file."""

    def print(self, console: Console | None = None) -> None:
        """Print the short table at the end of an export, and below it the call, unbroken for copying."""
        console = console or Console()
        console.print(self.table())
        console.print(Text(self.loading_call), soft_wrap=True)

    def table(self) -> Table:
        """What was written and found; without the call."""
        table = Table(title=Text(f"{self.model} to {self.to}"), show_header=False)
        table.add_column()
        table.add_column(overflow="fold")  # a path is only of use whole
        rows = {"written": str(self.path)}
        if self.keys is not None:
            rows["keys that load"] = str(len(self.keys.matched))
            rows["new in the library"] = _few(self.keys.missing)
            rows["left out"] = _few((*self.keys.mismatched, *self.keys.unexpected))
        if self.max_difference is None:
            rows["logits, read back"] = "not comparable: not every key loads"
        else:
            rows["logits, read back"] = (
                f"differ by at most {self.max_difference:.1e} (largest logit {self.scale:.2g})"
            )
        for name, value in rows.items():
            if value:
                table.add_row(name, Text(value))  # no markup: paths may hold brackets
        return table


def _some(names: tuple[object, ...]) -> str:
    return f" ({_few(names)})" if names else ""


def _few(names: tuple[object, ...]) -> str:
    shown = ", ".join(str(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
