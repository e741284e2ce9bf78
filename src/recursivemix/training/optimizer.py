"""Who moves the weights, and how fast: optimiser, parameter groups, learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import timm.optim
import torch
from torch import nn

from .settings import Schedule

FUSED = ("sgd", "momentum", "nesterov", "adam", "adamw")
"""timm's names of optimisers that torch can update in one pass."""


def lr_factor(
    step: int,
    total: int,
    warmup: int,
    schedule: Schedule = "cosine",
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
) -> float:
    """The learning rate of a step, as a share of the peak.

    Args:
        step: 0-based optimiser step.
        total: steps of the run.
        warmup: steps over which the rate rises linearly; the last of them is at the peak.
        schedule: then "cosine" falls to 0 at ``total``, "poly" too, as the power ``gamma`` of what is left;
            "step" falls to ``gamma`` times at each milestone.
        milestones: shares of the run in [0, 1], for "step".
        gamma: for "step" and "poly".
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "poly":
        return float((1 - progress) ** gamma)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "step":
        passed = sum(step >= round(milestone * total) for milestone in milestones)
        return float(gamma**passed)
    return 1.0


def check_optimizer(name: str) -> None:
    """Raises ValueError for an optimiser that timm does not know."""
    if name not in timm.optim.list_optimizers():
        known = ", ".join(str(known) for known in timm.optim.list_optimizers()[:12])
        raise ValueError(
            f"unknown optimizer {name!r}: sgd (with Nesterov momentum), momentum (without), adamw, or any "
            f"of timm.optim.list_optimizers(), such as {known}"
        )


def create_optimizer(
    network: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    decay_norms: bool,
    options: dict[str, Any],
) -> torch.optim.Optimizer:
    """timm's optimiser of that name for all parameters of a network, the region head's too.

    Args:
        name: as in ``timm.optim.list_optimizers()``; "sgd" is with Nesterov momentum, "momentum" without.
        decay_norms: put weight decay on norms and biases too, as the paper does.
        options: further arguments of the optimiser.

    Raises:
        ValueError: an unknown name, or options that it does not take.
    """
    check_optimizer(name)
    fused = {"fused": True} if name in FUSED and "foreach" not in options else {}
    if options.get("fused") is False and name not in FUSED:
        options = {key: value for key, value in options.items() if key != "fused"}
    try:
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            network,
            opt=name,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            filter_bias_and_bn=not decay_norms,
            **(fused | options),
        )
    except TypeError as error:
        raise ValueError(f"--optimizer-options of {name}: {error}") from error
    return optimizer
