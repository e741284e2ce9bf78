"""The options of Lightning's Trainer, ``--trainer.*``; Lightning is imported if one of them is typed."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace


class TrainerOptions(dict[str, Any]):
    """Arguments of Lightning's Trainer that differ from its defaults, as a YAML file holds them."""


def add_trainer(parser: ArgumentParser) -> None:
    """Add the options; imports Lightning."""
    from lightning import Trainer

    parser.add_class_arguments(Trainer, "trainer", instantiate=False)


def names_trainer(words: Sequence[str]) -> bool:
    """Return whether options, or configuration files among them, set an option of Lightning's Trainer."""
    if any(word.startswith("--trainer") for word in words):
        return True
    for text in values_of(words, "--config"):
        try:
            inline = "\n" in text or not Path(text).is_file()
            settings = yaml.safe_load(text if inline else Path(text).read_text())
        except (OSError, yaml.YAMLError):
            continue  # the parser reports it
        if isinstance(settings, dict) and "trainer" in settings:
            return True
    return False


def values_of(words: Sequence[str], option: str) -> list[str]:
    """Return the values of ``--option VALUE`` and ``--option=VALUE``, in order."""
    values = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name == option:
            values.append(value if equals else following)
    return values


def trainer_options(parser: ArgumentParser, values: Namespace) -> TrainerOptions:
    """Return the options of what was parsed that differ from Lightning's defaults."""
    if "trainer" not in values:
        return TrainerOptions()
    from lightning import Trainer

    defaults = inspect.signature(Trainer.__init__).parameters
    plain = yaml.safe_load(parser.dump(values, skip_unset=False))["trainer"]
    return TrainerOptions((n, value) for n, value in plain.items() if value != defaults[n].default)


class HelpTrainer(argparse.Action):
    """Show the options of Lightning's Trainer."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print them and exit."""
        if "--trainer.max_epochs" not in parser._option_string_actions:
            add_trainer(parser)
        names = [action.dest for action in parser._actions if action.dest.startswith("trainer.")]
        print(parser.format_help({"Lightning's Trainer": names}), end="")
        parser.exit()
