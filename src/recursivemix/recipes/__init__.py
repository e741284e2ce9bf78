"""One YAML a published number: settings of a command, under a header that is a promise.

``task`` says the command where it is not ``recursivemix fit`` but one of ``recursivemix transfer``.

The header's comment says command, source of the settings, expected value, hardware and time, each on a
line of its own. Below ``mixers`` stand the settings of each mixing method, so that the method's siblings
are trained by one flag: ``--mixer none``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

PROMISES = ("command", "settings", "expected", "hardware", "time")


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file has it."""

    name: str
    task: str
    """The command whose settings these are: fit, or one of ``recursivemix transfer``."""
    header: dict[str, str]
    """What is promised, by the names in `PROMISES`."""
    settings: dict[str, Any]
    """Settings of the command, without those of a mixer."""
    mixers: dict[str, dict[str, Any]]
    """Settings of each mixer; the first is the recipe's own."""

    def settings_with(self, mixer: str | None = None) -> dict[str, Any]:
        """The settings for one mixer, the recipe's own by default.

        Raises:
            ValueError: a mixer that the recipe says nothing of.
        """
        chosen = mixer or next(iter(self.mixers))
        if chosen not in self.mixers:
            raise ValueError(
                f"the recipe {self.name} has no settings for mixer {chosen!r}, only for "
                f"{', '.join(self.mixers)}"
            )
        return self.settings | {"mixer": chosen, "mixer_options": self.mixers[chosen]}


def recipe_names() -> list[str]:
    """All recipes there are."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ValueError: no recipe of that name; with the nearest ones.
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
    """The promises of a recipe's leading comment; a line that begins with two blanks goes on."""
    header: dict[str, str] = {}
    last = None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if found := re.match(rf"# ({'|'.join(PROMISES)}): (.*)", line):
            last = found[1]
            header[last] = found[2].strip()
        elif last is not None and line.startswith("#   "):
            header[last] += " " + line[1:].strip()
        else:
            last = None
    return header
