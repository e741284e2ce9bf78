"""How the options of a command are shown: grouped, the common ones first, with units and defaults."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from recursivemix.training.options import rephrased

METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", Path: "PATH"}
WIDTH = 100


def dashed(text: str) -> str:
    """Return a text with the options in it written with dashes."""
    return re.sub(r"--[a-z][\w.]*", lambda match: match[0].replace("_", "-"), text)


def type_of(action: argparse.Action) -> Any:
    """Return the type of an option's value, such as ``int`` for ``int | None``; None if it has none."""
    hint = getattr(action, "_typehint", None) or action.type
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        one_item = get_origin(kinds[0]) is list and kinds[1:] == [*get_args(kinds[0])]
        hint = kinds[0] if len(kinds) == 1 or one_item else None
    return hint


def metavar(hint: Any) -> str:
    """Return how a value of this type is shown: ``N``, ``PATH``, ``{a,b}``, ``[X,...]``, ``X X``."""
    origin = get_origin(hint)
    if origin is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(hint)) + "}"
    if origin is list:
        return f"[{metavar(get_args(hint)[0])},...]"
    if origin is tuple:
        return " ".join(metavar(kind) for kind in get_args(hint))
    return METAVARS.get(hint, "VALUE")


class HelpFormatter(argparse.HelpFormatter):
    """Show the type of an option's value instead of its name, its default, and examples as they are."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=30, **options)
        self._width = min(self._width, WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest.upper())
        hint = type_of(action)
        flags = ", ".join(dashed(flag) for flag in action.option_strings if not flag.endswith("+"))
        if hint is bool:
            return flags if action.default is False else flags.replace("--", "--[no-]")
        if get_origin(hint) is dict:
            flags += ".KEY"
        if action.nargs == 0 or action.dest == "print_config":
            return flags
        if get_origin(hint) in (list, tuple):  # jsonargparse names other ways to write these
            return f"{flags} {metavar(hint)}"
        return f"{flags} {action.metavar or metavar(hint)}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text = dashed(action.help or "").removesuffix(".")
        default = action.default
        if action.required and action.option_strings:
            text += " (required)"
        elif "default:" not in text and not any(
            default is none for none in (None, False, argparse.SUPPRESS)
        ):
            text += "" if default in ([], {}) else f" (default: {'on' if default is True else default})"
        return text.replace("%", "%%")


def readable(message: str, options: Iterable[str]) -> str:
    """Return an error message of the parser as one line, in the words of the options."""
    text = rephrased(message)
    if text.startswith("unrecognized arguments: "):
        names = [word.partition("=")[0] for word in text.split()[2:] if word.startswith("--")]
        owners = [(name, commands) for name in names if (commands := commands_with(name))]
        near = [close for name in names for close in get_close_matches(name, list(options), 1)]
        if "--recipe" in names and "--settings" in options:
            text += "; recursivemix recipes NAME prints a recipe, whose settings go under --settings"
        elif owners and "--settings" in options:
            text += f"; options of the runs begin with --settings, such as --settings.{owners[0][0][2:]}"
        elif owners and "--resume" in options:
            text += f"; {owners[0][0]} is an option of recursivemix {', '.join(owners[0][1])}"
        elif near:
            text += f"; did you mean {', '.join(near)}?"
    return dashed(text)


def commands_with(option: str) -> list[str]:
    """Return the commands that train and have an option, such as ``--val_split``."""
    from recursivemix.tasks import TASKS, command_of, settings_class

    tasks = [t for t in TASKS if option[2:] in {item.name for item in fields(settings_class(t))}]
    return [command_of(task) for task in tasks]
