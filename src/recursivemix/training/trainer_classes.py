"""The classes that settings name: those of Lightning's Trainer, checked and created.

Settings may come from elsewhere, in a file or a run folder. They may name the callbacks, loggers,
profilers, strategies, plugins and accelerators of Lightning, without the arguments that take functions or
objects: importing or calling anything else could run any code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

KINDS = {
    "callbacks": ("Callback",),
    "logger": ("Logger",),
    "profiler": ("Profiler",),
    "strategy": ("Strategy",),
    "plugins": ("Precision", "CheckpointIO", "LayerSync", "ClusterEnvironment"),
    "accelerator": ("Accelerator",),
}
"""Options of the Trainer that name classes, with the base classes of Lightning's own."""
MODULES = {
    "callbacks": "lightning.pytorch.callbacks",
    "logger": "lightning.pytorch.loggers",
    "profiler": "lightning.pytorch.profilers",
    "strategy": "lightning.pytorch.strategies",
    "plugins": "lightning.pytorch.plugins",
    "accelerator": "lightning.pytorch.accelerators",
}
"""Where a class that is named without its module is looked for."""
REGISTERED = re.compile(r"[a-z0-9_-]*")
"""Names that Lightning has registered, such as ddp or gpu; they import nothing."""
PLAIN = re.compile(
    r"(typing\.|Optional|Union|Literal\[[^]]*\]|NoneType|None|Any|int|float|bool|str|pathlib\.(_local\.)?Path"
    r"|datetime\.timedelta|list|dict|tuple|set|<class|[\[\], |'>])*"
)
"""Types whose values need no import."""


class ForeignClassError(ValueError):
    """Settings name a class or function that is not known to be safe; the message says which one."""


def check_classes(settings: Mapping[str, Any], source: str) -> None:
    """Raise ForeignClassError if settings name anything but Lightning's own classes.

    Options of the Trainer are those below a key ``trainer``, at any depth: a comparison has several.

    Args:
        settings: as a YAML file holds them.
        source: the file or flag that they come from, for the message.
    """
    try:
        _check_table(settings)
    except ForeignClassError as error:
        raise ForeignClassError(
            f"{source}: {error}; this could run any code: if you trust its author, add --trust-config"
        ) from error


def is_trusted(options: Mapping[str, Any]) -> bool:
    """Return whether options of the Trainer name Lightning's own classes alone."""
    try:
        check_classes({"trainer": options}, "")
    except ForeignClassError:
        return False
    return True


def instantiated(value: Any) -> Any:
    """Replace dictionaries with ``class_path`` and optional ``init_args`` by the objects they describe."""
    if isinstance(value, list):
        return [instantiated(item) for item in value]
    if not isinstance(value, dict):
        return value
    values = {name: instantiated(item) for name, item in value.items()}
    if "class_path" not in values:
        return values
    module, _, name = values["class_path"].rpartition(".")
    try:
        kind = getattr(import_module(module or MODULES["callbacks"]), name)
        return kind(**values.get("init_args") or {})
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"--trainer: cannot create {values['class_path']}: {error}") from error


def _check_table(values: Any) -> None:
    """Check settings; a table with a ``class_path`` is a class wherever the settings take any value."""
    if isinstance(values, list):
        for item in values:
            _check_table(item)
    elif isinstance(values, Mapping):
        if "class_path" in values:
            raise ForeignClassError(f"the settings name {values['class_path']!r}"[:300])
        for name, value in values.items():
            if str(name).rstrip("+") == "trainer" and isinstance(value, Mapping):
                _check_trainer(value)
            else:
                _check_table(value)


def _check_trainer(options: Mapping[Any, Any]) -> None:
    for name, value in options.items():
        option = str(name).rstrip("+")
        if "." in option:
            raise ForeignClassError(f"trainer.{option} is not the name of an option")
        if option not in KINDS:
            _check_table(value)
            continue
        for item in value if isinstance(value, list) else [value]:
            _check_class(item, option)


def _check_class(value: Any, option: str) -> None:
    """Check the value of an option that names a class."""
    if isinstance(value, str):
        if not REGISTERED.fullmatch(value):
            _shipped_class(value, option)
    elif isinstance(value, dict):
        unknown = sorted(map(str, value.keys() - {"class_path", "init_args"}))
        if unknown:
            raise ForeignClassError(f"trainer.{option} has {unknown[0]}, expected class_path and init_args")
        kind = _shipped_class(value.get("class_path"), option)
        arguments = value.get("init_args") or {}
        if not isinstance(arguments, dict):
            raise ForeignClassError(f"trainer.{option}: init_args must be a table")
        for name, argument in arguments.items():
            _check_argument(kind, str(name), argument, option)
    elif isinstance(value, list):
        raise ForeignClassError(f"trainer.{option} holds a list in a list")


def _shipped_class(path: Any, option: str) -> type:
    """Return one of Lightning's classes by its name, with or without its module."""
    foreign = ForeignClassError(
        f"trainer.{option} names {str(path)[:200]!r}, which is no {' or '.join(KINDS[option])} of Lightning"
    )
    module, _, name = str(path).rpartition(".")
    if not (module or MODULES[option]).startswith(("lightning.pytorch.", "lightning.fabric.")):
        raise foreign
    try:
        kind = getattr(import_module(module or MODULES[option]), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise foreign from error
    if not inspect.isclass(kind) or not kind.__module__.startswith("lightning."):
        raise foreign
    if not issubclass(kind, _bases()):
        raise foreign
    return kind


@cache
def _bases() -> tuple[type, ...]:
    """The base classes of `KINDS`."""
    environments = import_module("lightning.fabric.plugins.environments")
    places = {name: import_module(MODULES[option]) for option, names in KINDS.items() for name in names}
    places["ClusterEnvironment"] = environments
    return tuple(getattr(module, name) for name, module in places.items())


def _check_argument(kind: type, name: str, value: Any, option: str) -> None:
    """Check an argument of one of Lightning's classes: a plain value, or another of its classes."""
    if isinstance(value, dict) and "class_path" in value:
        _check_class(value, option)
        return
    if value is None or isinstance(value, (bool, int, float)):
        return
    try:
        found: Any = get_type_hints(getattr(kind, "__init__")).get(name)  # noqa: B009
    except (NameError, TypeError):
        parameters = inspect.signature(kind).parameters
        found = parameters[name].annotation if name in parameters else None
    if found is None or not PLAIN.fullmatch(str(found)):
        raise ForeignClassError(
            f"trainer.{option}: {kind.__name__} takes a function or an object as {name}, got "
            f"{str(value)[:100]!r}"
        )
    _check_table(value)
