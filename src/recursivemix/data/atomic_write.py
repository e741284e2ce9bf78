"""Files that are written atomically: complete under their name, or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBERS = re.compile(r"\[\n\s+([-+.\deE,\s]+?)\n\s+\]")
"""A list of numbers with a line for each. No text has line breaks in JSON."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, delete it on failure.

    Creates missing folders.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        name_file(error, path)
        raise


def name_file(error: BaseException, path: Path) -> None:
    """Name the file in an error of writing, such as of a full disk, that names none."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as part:
        part.write_text(text, "utf-8", newline="")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json_text(record))


def json_text(record: dict[str, Any]) -> str:
    """Return indented JSON with each list of numbers in one line, and null for NaN and infinity."""
    text = json.dumps(finite(record), indent=2)
    return NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n"


def finite(value: Any) -> Any:
    """Return a value with None in place of each NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
