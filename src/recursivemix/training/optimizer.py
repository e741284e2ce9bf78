"""Optimizer, parameter groups and learning-rate schedule, with their settings.

Importing this module needs the standard library only: the settings are part of the command line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Literal

from .checked import Checked

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["cosine", "step", "poly", "constant"]
FUSED = ("sgd", "momentum", "nesterov", "adam", "adamw")
"""timm's names of optimizers that torch can update in one pass."""
STEP_FACTOR, POLY_POWER = 0.1, 0.9
"""Usual ``gamma`` of the schedules; 0.9 is that of mmsegmentation."""
SETTINGS_OF_GROUPS = ("initial_lr", "weight_decay", "momentum", "nesterov", "fused")
"""Entries of an optimizer's groups that a resumed run takes from its own settings, besides its options."""


@dataclass(frozen=True)
class OptimizerSettings(Checked):
    """Optimizer and learning-rate schedule.

    Args:
        optimizer: sgd (with Nesterov momentum), momentum (without), adamw, or any optimizer of timm.optim.
        optimizer_options: Further arguments of the optimizer, such as --optimizer-options.betas [0.9,0.95].
        lr: Peak learning rate, for the total batch.
        momentum: Momentum of SGD and similar optimizers.
        weight_decay: Weight decay.
        decay_norms: Apply weight decay to normalization layers and biases too.
        clip: Largest norm of the gradients; 0 turns clipping off.
        schedule: cosine, step (times gamma at each milestone), poly (power gamma) or constant; after a
            linear warm-up.
        milestones: Epochs at which --schedule step lowers the learning rate.
        gamma: Factor of --schedule step (default: 0.1), or power of --schedule poly (default: 0.9).
        warmup_epochs: Epochs of linear warm-up (default: a twentieth of the run).
        min_lr: Learning rate at the end of --schedule cosine and poly.
        cooldown_epochs: Last epochs, which keep --min-lr; part of --epochs.
    """

    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms: bool = True
    clip: float = 0.0
    schedule: Schedule = "cosine"
    milestones: list[float] = field(default_factory=list)
    gamma: float | None = None
    warmup_epochs: float | None = None
    min_lr: float = 0.0
    cooldown_epochs: float = 0.0

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(0, "momentum", "weight_decay", "clip", "gamma", "warmup_epochs")
        self.check_least(0, "min_lr", "cooldown_epochs")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"--lr must be > 0, got {self.lr}")
        if self.lr is not None and self.min_lr > self.lr:
            raise ValueError(f"--min-lr must be at most --lr {self.lr}, got {self.min_lr}")
        if (self.min_lr or self.cooldown_epochs) and self.schedule not in ("cosine", "poly"):
            raise ValueError(
                f"--min-lr and --cooldown-epochs are for --schedule cosine and poly, not {self.schedule}"
            )
        if self.cooldown_epochs and not self.min_lr:
            raise ValueError("--cooldown-epochs needs a learning rate: add --min-lr, such as --min-lr 1e-5")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                "--schedule step and --milestones [60,120] belong together: give both or neither"
            )


def lr_factor(
    step: int,
    total: int,
    warmup: int,
    schedule: Schedule = "cosine",
    milestones: Sequence[float] = (),
    gamma: float = STEP_FACTOR,
) -> float:
    """Return the learning rate of a step, relative to the peak.

    Args:
        step: optimizer step, counted from 0.
        total: number of steps of the run.
        warmup: number of steps of linear warm-up; the last of them has the peak learning rate.
        schedule: after the warm-up, "cosine" decays to 0 at ``total``; "poly" decays to 0 as the remaining
            share of the run to the power ``gamma``; "step" multiplies by ``gamma`` at each milestone.
        milestones: in [0, 1], as shares of the run; for "step".
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


def scheduled_factor(settings: OptimizerSettings, step: int, total: int, epochs: int) -> float:
    """Return `lr_factor` for settings in epochs, in a run of ``total`` steps and ``epochs`` epochs."""
    share = 0.05 if settings.warmup_epochs is None else settings.warmup_epochs / epochs
    milestones = [milestone / epochs for milestone in settings.milestones]
    warmup, cooldown = round(share * total), round(settings.cooldown_epochs / epochs * total)
    usual = POLY_POWER if settings.schedule == "poly" else STEP_FACTOR
    gamma = usual if settings.gamma is None else settings.gamma
    factor = lr_factor(step, total - cooldown, warmup, settings.schedule, milestones, gamma)
    if step < warmup or not settings.min_lr:
        return factor
    assert settings.lr is not None
    floor = settings.min_lr / settings.lr
    return floor + (1 - floor) * factor


def schedule_notes(settings: OptimizerSettings, epochs: int) -> list[str]:
    """Return what a learning-rate schedule does not reach in a run of this many epochs, in lines."""
    notes = []
    late = [f"{milestone:g}" for milestone in settings.milestones if milestone >= epochs]
    if late:
        notes.append(
            f"--milestones: the run ends after {epochs} epochs, before {', '.join(late)}: the learning "
            f"rate is not lowered there"
        )
    if settings.warmup_epochs is not None and settings.warmup_epochs >= epochs:
        notes.append(
            f"--warmup-epochs {settings.warmup_epochs:g} fill all {epochs} epochs: the learning rate rises "
            f"until the end of the run"
        )
    return notes


def check_optimizer(settings: OptimizerSettings) -> None:
    """Raise ValueError for an optimizer that a run cannot use, or options that it does not take."""
    import timm.optim
    from torch import nn

    name, known = settings.optimizer, timm.optim.list_optimizers()
    if name not in known:
        raise ValueError(
            f"--optimizer {name} is unknown: use sgd (with Nesterov momentum), momentum (without), adamw, "
            f"or any of timm.optim.list_optimizers(), such as {', '.join(str(name) for name in known[:6])}"
        )
    if timm.optim.get_optimizer_info(name).second_order:
        raise ValueError(f"--optimizer {name} needs second derivatives, which a run does not compute")
    tried = OptimizerSettings(name, settings.optimizer_options, lr=1.0, weight_decay=settings.weight_decay)
    create_optimizer(nn.Linear(1, 1), tried, fused=False)


def parameter_groups(
    network: nn.Module, settings: OptimizerSettings, rates: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Return the parameters of a network in groups of one learning rate and weight decay.

    Args:
        network: its ``no_weight_decay`` is respected if ``decay_norms`` is False.
        settings: of the optimizer.
        rates: peak learning rate of each parameter.
    """
    wishes: Any = getattr(network, "no_weight_decay", None)
    excluded = list(wishes()) if callable(wishes) else []
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        plain = parameter.ndim <= 1 or any(fnmatch(name, pattern) for pattern in excluded)
        decay = 0.0 if plain and not settings.decay_norms else settings.weight_decay
        rate = rates[parameter]
        group = {"params": [], "lr": rate, "weight_decay": decay}
        groups.setdefault((rate, decay), group)["params"].append(parameter)
    return list(groups.values())


def create_optimizer(
    network: nn.Module,
    settings: OptimizerSettings,
    *,
    fused: bool = True,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """Create timm's optimizer for all parameters of a network.

    Args:
        network: its ``no_weight_decay`` is respected if ``decay_norms`` is False.
        settings: with a learning rate.
        fused: use torch's fused implementation if the optimizer has one.
        rates: peak learning rate of each parameter, if they differ.

    Raises:
        ValueError: options that the optimizer does not take, or an optimizer for other hardware.
    """
    import timm.optim

    name, options = settings.optimizer, dict(settings.optimizer_options)
    if name in FUSED and "foreach" not in options:
        options.setdefault("fused", fused)
    try:
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            network if rates is None else parameter_groups(network, settings, rates),
            opt=name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_norms,
            **options,
        )
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        flag = "--optimizer-options of" if options.keys() - {"fused"} else "--optimizer"
        raise ValueError(f"{flag} {name}: {error}") from error
    return optimizer


def apply_settings(
    scheduler: LambdaLR, settings: OptimizerSettings, configured: Sequence[Mapping[str, Any]], step: int
) -> None:
    """Give a restored optimizer the settings of this run, which may differ from those of the checkpoint.

    Args:
        scheduler: with its optimizer, both restored; changed in place.
        settings: of this run.
        configured: the optimizer's groups in this run, before it was restored.
        step: at which the schedule of this run goes on.

    Raises:
        ValueError: the checkpoint has other groups.
    """
    optimizer, scheduler.last_epoch = scheduler.optimizer, step
    names = {*SETTINGS_OF_GROUPS, *settings.optimizer_options}
    for group, new, factor in zip(optimizer.param_groups, configured, scheduler.lr_lambdas, strict=True):
        group.update({name: new[name] for name in names & new.keys()})
        group["lr"] = group["initial_lr"] * factor(step)
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]


ELEMENTWISE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
"""Entries of an optimizer's state with one number per weight."""


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if a restored state does not fit its weights: fused kernels would read beyond it."""
    for weights, state in optimizer.state.items():
        for name in ELEMENTWISE:
            value = state.get(name)
            if value is not None and getattr(value, "shape", None) != weights.shape:
                shape = tuple(getattr(value, "shape", ()))
                raise ValueError(f"the {name} of weights of {tuple(weights.shape)} has shape {shape}")
