"""The call that a compiler does not trace. Importing this module imports ``torch._dynamo``; see `eager`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_uncompiled(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function outside the compiled graph."""
    return function(*args, **kwargs)
