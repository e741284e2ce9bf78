"""The files of ``--config``: read once, checked for the classes that they name, and passed on as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from recursivemix.training.plain_file import LARGEST_SETTINGS, parse_yaml, read_text
from recursivemix.training.trainer_classes import check_classes

from .errors import UsageError

TRUST = "--trust_config"
TYPED_ONLY = ("config", "recipe", "trust_config", "print_config", "help")
"""Options that a file of settings cannot set."""


def read_settings_files(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return words with the content of each file of ``--config``, and whether any of them sets the Trainer.

    Args:
        words: options with underscores.

    Raises:
        UsageError, ValueError: a file that cannot be read, or that names a class outside Lightning without
            ``--trust-config``.
    """
    trusted = TRUST in words or f"{TRUST}=true" in words
    done: list[str] = []
    sets_trainer = False
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in ("--config", "--trainer") and (equals or rest):
            value = value if equals else rest.pop(0)
            inline = "\n" in value or (name == "--trainer" and "{" in value)
            source = name if inline else value
            if not inline and not Path(value).exists():
                raise UsageError(f"{name}: there is no file {value}")
            text = value if inline else read_text(Path(value), LARGEST_SETTINGS)
            values = parse_yaml(text, source)
            values = values if name == "--config" else {"trainer": values}
            _check_names(values, source)
            if not trusted:
                check_classes(values, source)
            sets_trainer |= "trainer" in values
            done.append(f"{name}={text}\n")
        else:
            sets_trainer |= name.startswith("--trainer.")
            done.append(f"{name}{equals}{value}")
    return done, sets_trainer


def values_of(words: Sequence[str], option: str) -> list[str]:
    """Return the values of ``--option VALUE`` and ``--option=VALUE``, in order."""
    values = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name == option:
            values.append(value if equals else following)
    return values


def _check_names(values: dict[str, Any], source: str) -> None:
    """Raise UsageError for a setting that a file cannot have."""
    for name, value in values.items():
        if name in ("recipe", "trust_config") and not value:  # as --print-config writes them
            continue
        if name in TYPED_ONLY or name.startswith(("trainer.", "trainer+")):
            where = "write it below trainer:" if name.startswith("trainer") else "give it as a flag"
            raise UsageError(f"{source}: {name} cannot be set in a file of settings; {where}")
    options = values.get("trainer") or {}
    if not isinstance(options, dict):
        raise UsageError(f"{source}: trainer must be a table of options, got {options!r}"[:300])
