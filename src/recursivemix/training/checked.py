"""Settings that are checked when they are made, class by class. Standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Checked:
    """Base of all settings: runs the ``check`` of every class in the hierarchy."""

    def __post_init__(self) -> None:
        for kind in reversed(type(self).__mro__):
            if "check" in vars(kind):
                kind.check(self)  # type: ignore[attr-defined]  # each class checks its own fields

    def check_least(self, least: float, *names: str) -> None:
        """Raise ValueError for a field that is NaN or below ``least``; None, a later default, passes."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")

    def as_plain(self) -> dict[str, Any]:
        """Return the fields as values that JSON, YAML and checkpoints can hold."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
