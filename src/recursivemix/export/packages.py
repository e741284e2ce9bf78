"""Import packages that only some exports need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

EXTRA = "pip install 'recursivemix[export]'"


def package(name: str, target: str) -> ModuleType:
    """Import a package, or say which extra installs it.

    Args:
        name: module to import, such as ``safetensors.torch``.
        target: value of ``--to``, for the message.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ValueError(f"--to {target} needs {missing}, which cannot be imported: {EXTRA}") from error
