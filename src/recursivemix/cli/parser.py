"""Parsers of the commands, made from the signatures of the functions that run them.

A parameter that is a settings dataclass becomes one option per field, a positional-only parameter one
positional argument, and any other parameter one option. Options may be typed with dashes or underscores.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from textwrap import indent
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from .help import HelpFormatter, dashed, metavar, readable, type_of
from .trainer import HelpTrainer, TrainerOptions, add_trainer, names_trainer, trainer_options

Function = Callable[..., None]
HELP = {
    "config": "YAML file of settings; flags override it",
    "help": "Show this help and exit",
    "help_all": "Show all options and exit",
    "help_trainer": "Show the options of Lightning's Trainer, --trainer.*, and exit",
    "print_config": "Print the settings as YAML and exit",
}


class CommandParser(ArgumentParser):
    """Parser of one command, with short and full help and one-line errors."""

    common: tuple[str, ...] = ()
    """Names of the options that ``--help`` shows; empty: all."""
    sections: dict[str, list[str]]
    """Names of the options by the title of their group."""

    def format_help(self, sections: Any = None) -> str:
        """Return the help: the common options, or the options of the given sections."""
        if not isinstance(sections, dict):
            sections = {"common options": list(self.common)} if self.common else self.sections
        actions = {action.dest: action for action in self._actions}
        formatter = HelpFormatter(self.prog)
        formatter.add_usage(self.usage, [], [])
        formatter.add_text(self.description)
        for title, names in (sections | {"help": [*HELP]}).items():
            formatter.start_section(title)
            formatter.add_arguments([actions[name] for name in names if name in actions])
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with code 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        self.exit(2, f"{self.prog}: error: {readable(message, self._option_string_actions)}\n")

    def completed(self, words: Sequence[str]) -> list[str]:
        """Write out ``--compile`` and ``--no-compile``; gather the values of options that take a list.

        ``--images a.jpg b.jpg`` and ``--images a.jpg --images b.jpg`` are the same.
        """
        kinds = {flag: type_of(action) for flag, action in self._option_string_actions.items()}
        lists: dict[str, list[Any]] = {}
        done: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if kinds.get(word) is bool and rest[:1] not in (["true"], ["false"]):
                done.append(f"{word}=true")
            elif word.startswith("--no_") and kinds.get(f"--{word[5:]}") is bool:
                done.append(f"--{word[5:]}=false")
            elif get_origin(kinds.get(name)) is list and is_item(value if equals else "".join(rest[:1])):
                given = [value] if equals else [rest.pop(0)]
                while not equals and rest and is_item(rest[0]):
                    given.append(rest.pop(0))
                is_text = get_args(kinds[name])[0] in (str, Path)
                lists.setdefault(name, []).extend(
                    item if is_text else yaml.safe_load(item) for item in given
                )
            else:
                done.append(word)
        return [*done, *(f"{name}={json.dumps(values)}" for name, values in lists.items())]


class HelpAll(argparse.Action):
    """Show every option of the command."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print them and exit."""
        print(parser.format_help(parser.sections), end="")
        parser.exit()


def is_item(value: str) -> bool:
    """Return whether the value of a list option is a single item: neither a list nor the next option."""
    return value != "" and not value.startswith(("[", "--"))


def underscored(word: str) -> str:
    """Return an option with underscores in its name; any other word as it is."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def parameters_of(function: Function) -> dict[str, Any]:
    """Return the types of a function's parameters that are options; callables are not."""
    hints = get_type_hints(function)
    names = inspect.signature(function).parameters
    return {name: hints[name] for name in names if get_origin(hints[name]) is not Callable}


def positional_of(function: Function) -> dict[str, Any]:
    """Return the positional-only parameters of a function, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is Parameter.POSITIONAL_ONLY}


def title_of(settings: type, name: str) -> str:
    """Return the title of an option's group: the summary of the settings class that declares its field."""
    for kind in reversed(settings.__mro__):
        if name in vars(kind).get("__annotations__", {}):
            return (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
    raise AttributeError(name)


def make_parser(name: str, function: Function, common: tuple[str, ...] = ()) -> CommandParser:
    """Return the parser of a command, without the options of Lightning's Trainer.

    Args:
        name: the command, such as "transfer detection".
        function: runs the command; its signature and docstrings give the options.
        common: names of the options that ``--help`` shows; empty: all.
    """
    document = parse_docstring(inspect.getdoc(function) or "")
    helps = {parameter.arg_name: parameter.description for parameter in document.params}
    examples = "".join(f"{example.description}\n" for example in document.examples)
    parser = CommandParser(
        prog=f"recursivemix {name}",
        description=document.short_description,
        epilog=examples and "examples:\n" + indent(examples, "  "),
    )
    parser.common = common
    parser.sections = {}
    parameters, positional = parameters_of(function), positional_of(function)
    settings: dict[str, Any] = {name: kind for name, kind in parameters.items() if is_dataclass(kind)}
    usage = [parser.prog]
    for parameter, default in positional.items():
        word, optional = parameter.upper(), default is not Parameter.empty
        usage.append(f"[{word}]" if optional else word)
        parser.add_argument(
            parameter,
            type=parameters[parameter],
            help=helps[parameter],
            metavar=word,
            nargs="?" if optional else None,
        )
    for kind in settings.values():
        if kind is not TrainerOptions:
            parser.add_class_arguments(kind, as_group=False)
            for item in fields(kind):
                parser.sections.setdefault(title_of(kind, item.name), []).append(item.name)
    if settings:
        parser.add_argument("--config", action="config")
    parser.sections["options"] = [parameter for parameter in parameters if parameter not in settings]
    if parameters.keys() - settings.keys() - positional.keys():
        skip = inspect.signature(function).parameters.keys() - parameters.keys()
        skip |= settings.keys() | positional.keys()
        parser.add_function_arguments(inspect.unwrap(function), as_group=False, skip={*skip})
    if common:
        parser.add_argument("--help_all", action=HelpAll, nargs=0, default=argparse.SUPPRESS)
    if TrainerOptions in settings.values():
        parser.add_argument("--help_trainer", action=HelpTrainer, nargs=0, default=argparse.SUPPRESS)
    for action in parser._actions:
        action.help = HELP.get(action.dest, action.help)
        if action.required and action.option_strings:
            usage.append(f"{dashed(action.option_strings[0])} {metavar(type_of(action))}")
    parser.usage = " ".join([*usage, "[options]"])
    return parser


def parse_options(
    name: str, function: Function, words: Sequence[str], common: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the arguments for the function that runs a command.

    Args:
        name: the command, such as "transfer detection".
        function: runs the command.
        words: the options as typed.
        common: names of the options that ``--help`` shows; empty: all.

    Raises:
        ValueError: settings that are out of range or exclude each other.
        SystemExit: after ``--help`` (code 0) or a wrong option (code 2).
    """
    words = [underscored(word) for word in words]
    parser = make_parser(name, function, common)
    parameters = parameters_of(function)
    if TrainerOptions in parameters.values() and names_trainer(words):
        add_trainer(parser)
    values = parser.parse_args(parser.completed(words))
    chosen = parser.instantiate(values)
    arguments: dict[str, Any] = {}
    for parameter, kind in parameters.items():
        if kind is TrainerOptions:
            arguments[parameter] = trainer_options(parser, values, chosen)
        elif is_dataclass(kind):
            made: Any = kind
            arguments[parameter] = made(**{item.name: chosen[item.name] for item in fields(kind)})
        else:
            arguments[parameter] = chosen[parameter]
    return arguments
