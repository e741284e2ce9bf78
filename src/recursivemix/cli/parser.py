"""Parsers of the commands, made from the signatures of the functions that run them.

A parameter that is a settings dataclass becomes one option per field, a positional-only parameter one
positional argument, and any other parameter one option. Options may be typed with dashes or underscores.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from recursivemix.data.printable import printable
from recursivemix.training.options import add_option, add_settings, helps_of, make_settings

from .help import HelpFormatter, dashed, metavar, readable, type_of
from .settings_file import read_settings_files
from .trainer import HelpTrainer, TrainerOptions, add_trainer, trainer_options

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
        line = readable(message, self._option_string_actions)
        self.exit(2, f"{self.prog}: error: {printable(line)}\n")

    def completed(self, words: Sequence[str]) -> list[str]:
        """Write out ``--compile`` and ``--no-compile``; gather the values of options that take several.

        ``--images a.jpg b.jpg`` and ``--images a.jpg --images b.jpg`` are the same.
        """
        kinds = {flag: type_of(action) for flag, action in self._option_string_actions.items()}
        lists: dict[str, list[Any]] = {}
        done: list[str] = []
        rest = with_tables(words, {flag for flag, kind in kinds.items() if get_origin(kind) is dict})
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if kinds.get(word) is bool and rest[:1] not in (["true"], ["false"]):
                done.append(f"{word}=true")
            elif word.startswith("--no_") and kinds.get(f"--{word[5:]}") is bool:
                done.append(f"--{word[5:]}=false")
            elif get_origin(kinds.get(name)) in (list, tuple) and is_item(
                value if equals else "".join(rest[:1])
            ):
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


def with_tables(words: Sequence[str], options: Container[str]) -> list[str]:
    """Write ``--settings.trainer.max_steps 3`` as a table of ``--settings.trainer``, with its other values.

    jsonargparse takes such a value for text, and the last one alone for the whole table.

    Args:
        words: options with underscores; files of settings as their content.
        options: those whose value is a table.
    """
    tables: dict[str, Any] = {}
    done: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        option, *keys = name.split(".")
        if name != "--config" and (option not in options or not (equals or rest)):
            done.append(word)
            continue
        value = value if equals else rest.pop(0)
        if keys[1:]:
            name = f"{option}.{keys[0]}"
            tables[name] = with_value(tables.get(name), keys[1:], yaml_value(value))
            value = json.dumps(tables[name])
        else:
            groups = with_value({}, [] if name == "--config" else [option[2:], *keys], yaml_value(value))
            tables |= {
                f"--{group}.{key}": item for group, content in items(groups) for key, item in items(content)
            }
        done.append(f"{name}={value}")
    return done


def with_value(table: Any, keys: Sequence[str], value: Any) -> Any:
    """Return a table with another value below these keys; what is no table there is replaced."""
    if not keys:
        return value
    return dict(items(table)) | {keys[0]: with_value(dict(items(table)).get(keys[0]), keys[1:], value)}


def items(table: Any) -> list[tuple[str, Any]]:
    """Return the entries of a table; none of anything else."""
    return list(table.items()) if isinstance(table, dict) else []


def yaml_value(text: str) -> Any:
    """Return a value that was typed; YAML takes 1e-3 for text, and what is no YAML is text."""
    if re.fullmatch(r"[+-]?[0-9]+\.?[0-9]*e[+-]?[0-9]+", text, re.IGNORECASE):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def is_item(value: str) -> bool:
    """Return whether the value of such an option is a single item: neither a list nor the next option."""
    return value != "" and not value.startswith(("[", "--"))


def underscored(word: str) -> str:
    """Return an option with underscores in its name; any other word as it is."""
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        return word
    parts = name[2:].split(".")
    label = 1 if parts[0] == "methods" else None  # a name that the user chose
    parts = [part if i == label else part.replace("-", "_") for i, part in enumerate(parts)]
    return f"--{'.'.join(parts)}{equals}{value}"


def types_of(function: Function) -> dict[str, Any]:
    """Return the types of a function's parameters; the type of its result is not imported."""
    function = inspect.unwrap(function)
    parameters = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    return get_type_hints(SimpleNamespace(__annotations__=parameters), function.__globals__)


class Parameters:
    """The parameters of a function that runs a command, by the kind of options that they become."""

    def __init__(self, function: Function) -> None:
        self.types = types_of(function)
        """Type of each parameter."""
        self.positional: dict[str, Any] = {}
        """Default of each positional argument; ``Parameter.empty`` if it is required."""
        self.settings: dict[str, Any] = {}
        """Settings class of each parameter that has one."""
        self.trainer: list[str] = []
        """Parameters that take options of Lightning's Trainer."""
        self.options: dict[str, Any] = {}
        """Default of each option. Callables are none: a command line cannot give them."""
        for name, parameter in inspect.signature(function).parameters.items():
            kind = self.types[name]
            if parameter.kind is Parameter.POSITIONAL_ONLY:
                self.positional[name] = parameter.default
            elif kind is TrainerOptions:
                self.trainer.append(name)
            elif is_dataclass(kind):
                self.settings[name] = kind
            elif get_origin(kind) is not Callable:
                self.options[name] = parameter.default


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
    helps = helps_of(inspect.unwrap(function))
    examples = "".join(f"{example.description}\n" for example in document.examples)
    parser = CommandParser(
        prog=f"recursivemix {name}",
        allow_abbrev=False,  # files of settings are found by the whole name of their option
        description=document.short_description,
        epilog=examples and "examples:\n" + indent(examples, "  "),
    )
    parser.common, parser.sections = common, {}
    parameters = Parameters(function)
    usage = [parser.prog, *add_positional(parser, parameters, helps)]
    for kind in parameters.settings.values():
        add_settings(parser, kind)
        for item in fields(kind):
            parser.sections.setdefault(title_of(kind, item.name), []).append(item.name)
    parser.sections["options"] = [*parameters.positional, *parameters.options]
    for option, default in parameters.options.items():
        default = MISSING if default is Parameter.empty else default
        add_option(parser, option, parameters.types[option], default, helps)
    if parameters.settings:
        parser.add_argument("--config", action="config", metavar="PATH")
    if common:
        parser.add_argument("--help_all", action=HelpAll, nargs=0, default=argparse.SUPPRESS)
    if parameters.trainer:
        parser.add_argument("--help_trainer", action=HelpTrainer, nargs=0, default=argparse.SUPPRESS)
    for action in parser._actions:
        action.help = HELP.get(action.dest, action.help)
        if action.required and action.option_strings:
            usage.append(f"{dashed(action.option_strings[0])} {metavar(type_of(action))}")
    parser.usage = " ".join([*usage, "[options]"])
    return parser


def add_positional(
    parser: CommandParser, parameters: Parameters, helps: Mapping[str, str | None]
) -> list[str]:
    """Add the positional arguments; return how the usage line shows them."""
    usage = []
    for name, default in parameters.positional.items():
        word, optional = name.upper(), default is not Parameter.empty
        parser.add_argument(
            name,
            type=parameters.types[name],
            help=helps[name],
            metavar=word,
            nargs="?" if optional else None,
        )
        usage.append(f"[{word}]" if optional else word)
    return usage


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
    parameters = Parameters(function)
    try:
        words, sets_trainer = read_settings_files(words)
    except ValueError as error:
        parser.error(str(error))
    if parameters.trainer and sets_trainer:
        add_trainer(parser)
    values = parser.parse_args(parser.completed(words))
    arguments = {name: values[name] for name in (*parameters.positional, *parameters.options)}
    for name, kind in parameters.settings.items():
        arguments[name] = make_settings(kind, values)
    for name in parameters.trainer:
        arguments[name] = trainer_options(parser, values)
    return arguments
