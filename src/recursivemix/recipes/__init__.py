"""Recipes: one YAML file per published result, with the settings of a command and a header comment.

``task`` names the command if it is not ``recursivemix fit`` but one of ``recursivemix transfer``. The
header states command, source of the settings, expected value, hardware and time. ``mixers`` holds the
settings of each mixing method, so that ``--mixer none`` trains the baseline of the same recipe.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

HEADER = ("command", "settings", "expected", "hardware", "time")
"""Entries of a header."""


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe's file."""

    name: str
    task: str
    """The command whose settings these are: fit, or one of ``recursivemix transfer``."""
    header: dict[str, str]
    """Text of each entry of `HEADER`."""
    settings: dict[str, Any]
    """Settings of the command, without those of a mixer."""
    mixers: dict[str, dict[str, Any]]
    """Settings of each mixer; the first is the recipe's own."""

    def settings_with(self, mixer: str | None = None) -> dict[str, Any]:
        """Return the settings with one mixer, the recipe's own by default.

        Raises:
            ValueError: the recipe has no settings for the mixer.
        """
        chosen = mixer or next(iter(self.mixers))
        if chosen not in self.mixers:
            raise ValueError(
                f"the recipe {self.name} has no settings for mixer {chosen!r}, only for "
                f"{', '.join(self.mixers)}"
            )
        return self.settings | {"mixer": chosen, "mixer_options": self.mixers[chosen]}


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe.

    Raises:
        ValueError: there is no recipe of this name; the message has similar names.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else "recursivemix recipes lists them"
        raise ValueError(f"there is no recipe {name!r}: {hint}")
    text = (resources.files(__name__) / f"{name}.yaml").read_text()
    settings = yaml.safe_load(text)
    task, mixers = settings.pop("task", "fit"), settings.pop("mixers")
    return Recipe(name, task, read_header(text), settings, mixers)


def read_header(text: str) -> dict[str, str]:
    """Return the entries of a recipe's leading comment; an indented line continues an entry."""
    header: dict[str, str] = {}
    last = None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if found := re.match(rf"# ({'|'.join(HEADER)}): (.*)", line):
            last = found[1]
            header[last] = found[2].strip()
        elif last is not None and line.startswith("#   "):
            header[last] += " " + line[1:].strip()
        else:
            last = None
    return header
