"""Options of a parser from the fields of settings: one flag per field, with its type, default and help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

SettingsT = TypeVar("SettingsT")
REPHRASED = {
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"typing\.Literal\[(.*?)\]": r"one of \1",
    r"'([\w-]+)'": r"\1",
    r"tuple with (\d+) elements": r"\1 numbers",
    r"tuple\[float, float\]": "2 numbers",
    r"tuple\[float, float, float\]": "3 numbers",
    r'Parser key "([\w.]+)": Expected an? (.*?)\. Got value: (.*)': r"--\1 must be \2, got \3",
    r'Parser key "([\w.]+)": Does not validate .* Subtypes: \[(.*?)\] .* Given value: (.*)': (
        r"--\1 must be \2, got \3"
    ),
    r"must be (.*), NoneType": r"must be \1",
    r"must be list\[(.*)\], \1, got": r"must be \1 or a list of them, got",
    r'Parser key "config": File does not exist: (.*)': r"--config: there is no file \1",
    r'Parser key "([\w.]+)": ': r"--\1: ",
    r"argument (--[\w.]+): expected one argument": r"\1 needs a value",
}
"""Patterns of the parser's error messages, and what is said instead."""


def add_settings(parser: ArgumentParser, settings: type) -> None:
    """Add an option for each field of a settings dataclass.

    `ArgumentParser.add_class_arguments` resolves annotations with the names of one module only: it accepts
    any value for fields from other modules, and runs ``if TYPE_CHECKING`` blocks to find their names.
    """
    types = get_type_hints(settings)
    helps = helps_of(*reversed(settings.__mro__))
    for item in fields(settings):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        add_option(parser, item.name, or_item(types[item.name]), default, helps)


def item_of(kind: Any) -> Any:
    """Return the type of the items of ``list[int]`` or ``list[int] | None``; None for other types."""
    kinds = (kind, *get_args(kind)) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((get_args(one)[0] for one in kinds if get_origin(one) is list), None)


def or_item(kind: Any) -> Any:
    """Return a type that takes ``64`` for a list too, as the flag ``--image-size 64`` does."""
    item = item_of(kind)
    return kind if item is None else Union[kind, item]  # noqa: UP007 - of values, not of types


def make_settings(settings: type[SettingsT], values: Any) -> SettingsT:
    """Return settings from parsed values; the parser accepts null for every option.

    Raises:
        ValueError: null for an option that needs a value, or what the settings refuse.
    """
    types = get_type_hints(settings)
    for item in fields(settings):  # type: ignore[arg-type]
        kind = types[item.name]
        if values[item.name] is None and kind is not Any and type(None) not in get_args(kind):
            raise ValueError(f"--{item.name.replace('_', '-')} needs a value, got null")
    plain = {item.name: as_plain(values[item.name]) for item in fields(settings)}  # type: ignore[arg-type]
    for name, value in plain.items():
        if value is not None and not isinstance(value, list) and item_of(types[name]) is not None:
            plain[name] = [value]
    return settings(**plain)


def as_plain(value: Any) -> Any:
    """Return a parsed value with dictionaries, also where jsonargparse made a table a Namespace."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {name: as_plain(item) for name, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, list) else value


def add_option(
    parser: ArgumentParser, name: str, kind: Any, default: Any, helps: Mapping[str, str | None]
) -> None:
    """Add one option; it is required if the default is ``MISSING``."""
    if default is MISSING:
        parser.add_argument(f"--{name}", type=kind, required=True, help=helps[name])
    else:
        parser.add_argument(f"--{name}", type=kind, default=default, help=helps[name])


def helps_of(*documented: Any) -> dict[str, str | None]:
    """Return the line under ``Args:`` of each name in the docstrings; later ones override earlier ones."""
    documents = [parse(inspect.cleandoc(one.__doc__ or "")) for one in documented]
    return {param.arg_name: param.description for document in documents for param in document.params}


def rephrased(message: str) -> str:
    """Return an error message of a parser as one line, in the words of the options."""
    text = " ".join(message.split())
    for pattern, replacement in REPHRASED.items():
        text = re.sub(pattern, replacement, text)
    return text
