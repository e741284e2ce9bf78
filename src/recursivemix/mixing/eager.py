"""Functions that stay outside compiled graphs, without importing the compiler before it is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function eagerly where a compiled function calls it, as `torch.compiler.disable` does.

    That decorator imports ``torch._dynamo``, which takes as long as ``import torch`` itself. This one
    imports it when a compiler traces the call, at which point it has been imported already.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        from .uncompiled import run_uncompiled

        result: R = run_uncompiled(function, *args, **kwargs)
        return result

    return call
