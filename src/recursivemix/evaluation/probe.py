"""The parts of a probe: how it runs, and how its numbers are named, compared and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .subject import Subject

Record = Mapping[str, Any]
"""An evaluation as `evaluate_checkpoint` returns it, or as ``evaluation.json`` holds it."""


@dataclass(frozen=True)
class Metric:
    """A summary number of a probe."""

    name: str
    """Key in ``comparison.json``."""
    title: str
    """Row of a table, title of a plot."""
    path: tuple[str, ...]
    """Keys that lead to the number in an evaluation."""
    unit: str = "%"
    higher_is_better: bool = True
    bounds: tuple[float, float | None] = (0, 100)
    """Least and largest possible value."""
    compared: bool = True
    """Test the differences between methods in it."""
    drawn: bool = False
    """Draw these differences; otherwise they are a table that opens on demand."""
    short: str = ""
    """Column of the summary tables in the documentation; empty leaves it out."""

    def read(self, record: Record | None) -> float | None:
        """Return the number in an evaluation; None if it was not measured."""
        value: Any = record
        for key in self.path:
            if value is None:
                return None
            value = value.get(key)
        return None if value is None else float(value)


class Point(NamedTuple):
    """A point of a curve."""

    label: str
    """Name of its column in the table behind the plot."""
    x: float | str
    accuracy: float
    """Percent."""
    images: int = 0
    """Images behind the point, where curves are pooled."""


def accuracy_by(probe: str, name: str, record: Record) -> list[Point]:
    """Return the accuracy that a probe measured at each value of a share ``name``, which is in percent."""
    measured = record.get(probe) or {name: (), "top1": ()}
    pairs = zip(measured[name], measured["top1"], strict=True)
    return [Point(f"{100 * share:.0f}", 100 * share, top1) for share, top1 in pairs]


@dataclass(frozen=True)
class Curve:
    """Accuracy along a quantity."""

    title: str
    x_label: str
    text: str
    """A sentence under the plot."""
    read: Callable[[Record], list[Point]]
    """Return the curve of an evaluation; empty if it was not measured."""
    pooled: bool = False
    """Average over the images of all seeds, point by point, rather than over seeds."""


@dataclass(frozen=True)
class Probe:
    """One measurement of a checkpoint."""

    name: str
    """Name for ``--probes``."""
    measures: str
    """One line for help texts and documentation."""
    cost: str
    """Forward passes or other work, in words."""
    run: Callable[[Subject], dict[str, Any]]
    """Return the part of the evaluation that is its own: plain values by key."""
    metrics: tuple[Metric, ...]
    curves: tuple[Curve, ...] = ()
    section: str = ""
    """Section of a comparison's page; probes of one section share it, and an empty one has none."""
    several_labels: bool = False
    """Whether it also measures images with any number of labels; otherwise it is left out there."""
    text: str = ""
    """A sentence under the plot of the first metric; such a plot is drawn where there are no curves."""
