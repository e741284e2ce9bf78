"""How the options of a command are shown: grouped, the common ones first, with units and defaults."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", Path: "PATH"}
WIDTH = 100
REPHRASED = {
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"typing\.Literal\[(.*?)\]": r"one of \1",
    r"'([\w-]+)'": r"\1",
    r"tuple with (\d+) elements": r"\1 numbers",
    r"tuple\[float, float\]": "2 numbers",
    r"tuple\[float, float, float\]": "3 numbers",
    r'Parser key "([\w.]+)": Expected an? (.*?)\. Got value: (.*)': r"--\1 must be \2, got \3",
    r'Parser key "([\w.]+)": Does not validate .*? Subtypes: \[(.*?), NoneType\] .* Given value: (.*)': (
        r"--\1 must be \2, got \3"
    ),
    r'Parser key "config": File does not exist: (.*)': r"--config: there is no file \1",
    r'Parser key "([\w.]+)": ': r"--\1: ",
    r"argument (--[\w.]+): expected one argument": r"\1 needs a value",
}
"""Patterns of the parser's error messages, and what is said instead."""


def dashed(text: str) -> str:
    """Return a text with the options in it written with dashes."""
    return re.sub(r"--[a-z][\w.]*", lambda match: match[0].replace("_", "-"), text)


def type_of(action: argparse.Action) -> Any:
    """Return the type of an option's value, such as ``int`` for ``int | None``; None if it has none."""
    hint = getattr(action, "_typehint", None) or action.type
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        hint = kinds[0] if len(kinds) == 1 else None
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
    text = " ".join(message.split())
    for pattern, replacement in REPHRASED.items():
        text = re.sub(pattern, replacement, text)
    if text.startswith("unrecognized arguments: "):
        names = [word.partition("=")[0] for word in text.split()[2:] if word.startswith("--")]
        near = [close for name in names for close in get_close_matches(name, list(options), 1)]
        text += f"; did you mean {', '.join(near)}?" if near else ""
        if "--recipe" in names and "--settings" in options:
            text += "; recursivemix recipes NAME prints a recipe, whose settings go under --settings"
        elif names and "--settings" in options:
            text += f"; options of the runs begin with --settings, such as --settings.{names[0][2:]}"
    return dashed(text)
