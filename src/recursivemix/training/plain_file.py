"""Files of plain values, YAML and JSON: read with limits, and refused in one line.

A run folder may come from elsewhere. Its files are data: reading them runs no code, needs little memory
whatever they hold, and ends with a ValueError that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

LARGEST_SETTINGS = 1 << 18
"""Bytes of a YAML file."""
LARGEST_RECORD = 1 << 30
"""Bytes of a JSON file."""
DEEPEST = 50
"""Lists and tables within each other."""
MOST_VALUES = 100_000
"""Values of a YAML file after its aliases are replaced."""


class LimitedLoader(yaml.SafeLoader):
    """YAML of plain values that stays small when its aliases are replaced."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.values = 0
        self.sizes: dict[int, int] = {}
        """Number of values below each node, by its id."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; raise ValueError beyond a limit."""
        is_alias = self.check_event(yaml.AliasEvent)
        before = self.values
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if is_alias and id(node) not in self.sizes:
            raise ValueError("a value contains itself by an alias")
        self.values += self.sizes[id(node)] if is_alias else 1
        if self.values > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES} values, aliases replaced")
        if not is_alias:
            self.sizes[id(node)] = self.values - before
        return node


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Return the table of a YAML text; ``name`` is the file's in messages.

    Raises:
        ValueError: not YAML, not a table by name, or beyond a limit.
    """
    try:
        if len(text) > LARGEST_SETTINGS:
            raise ValueError(f"it is larger than {LARGEST_SETTINGS >> 10} KiB")
        loader = LimitedLoader(text)
        try:
            values: Any = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{name} cannot be read as settings: {' '.join(str(error).split())}") from error
    return _as_table(values, name)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the table of a YAML file; errors as in `parse_yaml`."""
    return parse_yaml(read_text(path, LARGEST_SETTINGS), str(path))


def read_json(path: Path) -> dict[str, Any]:
    """Return the table of a JSON file.

    Raises:
        ValueError: it cannot be read, is not JSON, or not a table.
    """
    text = read_text(path, LARGEST_RECORD)
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a record: {' '.join(str(error).split())}") from error
    return _as_table(values, str(path))


def read_text(path: Path, largest: int) -> str:
    """Return the text of a file.

    Raises:
        ValueError: it is missing, no file, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise ValueError(f"it is larger than {largest >> 10} KiB")
        return content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read: {reason}") from error


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Raise ValueError that names a file instead of the errors that its unexpected content leads to."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} holds something else than expected ({reason[:300]})") from error


def _as_table(values: Any, name: str) -> dict[str, Any]:
    if values is None:
        raise ValueError(f"{name} is empty, expected a table of names and values")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        found = type(values).__name__ if not isinstance(values, dict) else "a table with other keys"
        raise ValueError(f"{name} must hold a table of names and values, got {found}")
    return values
