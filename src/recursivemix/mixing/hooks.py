"""Hooks that act once inside a network, in its next training pass; and the names of a network's stages.

`MixedBatch` leaves the mixer before the network runs, so a method that mixes hidden states can only prepare
what is to happen. The hooks are registered from the start; in a pass with nothing to do they cost one look
at an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .eager import eager

Act = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]
"""A function of a submodule's arguments, keywords and output. It returns the output to continue with, or
None to leave it unchanged."""


class Plan(NamedTuple):
    """What one pass is to do."""

    module: nn.Module
    """The submodule after which it acts."""
    batch_size: int
    act: Act


class NextPass:
    """Act once in a network: in the first pass in training mode after `prepare`.

    Where activations are recomputed for the gradients (checkpointing), it acts there again. A pass in
    evaluation mode is never touched, and a plan whose pass never comes is dropped by the next `prepare` or
    `clear`. The network may be compiled; the hooks stay outside the graphs. torch looks for hooks deep
    inside a compiled network only if configured to, and `check_done` raises where it did not.

    Args:
        model: The network that is trained, before any wrapping.
        modules: Its submodules after which something may happen.
    """

    def __init__(self, model: nn.Module, modules: Iterable[nn.Module]) -> None:
        self._waiting: Plan | None = None  # for the next training pass
        self._running: Plan | None = None  # in this pass, until it has acted
        self._last: Plan | None = None  # of the last training pass, whose activations may be recomputed
        self._inside = False
        self._acted = False
        model.register_forward_pre_hook(self._enter, with_kwargs=True)
        for module in modules:
            module.register_forward_hook(self._visit, with_kwargs=True)
        model.register_forward_hook(self._leave, always_call=True)

    def prepare(self, module: nn.Module, batch_size: int, act: Act) -> None:
        """Let the next training pass, which must have this batch size, act after this submodule."""
        self._waiting, self._last, self._acted = Plan(module, batch_size, act), None, False

    def clear(self) -> None:
        """Cancel the pending plan."""
        self._waiting = self._last = None

    def check_done(self) -> None:
        """Raise if the planned mixing never ran."""
        if self._waiting is not None:
            raise ValueError(
                "the network this mixer was made with has not run in training mode since the mixer was "
                "called: call mixer(images, labels), then that network in train(), then the loss"
            )
        if self._last is not None and not self._acted:
            raise ValueError(
                "the network's pass did not go through the submodule in which this mixer acts, or without "
                "its hooks. If the mixer takes layers=, name submodules that every pass calls. If the "
                "network is compiled, set torch._dynamo.config.skip_nnmodule_hook_guards = False before "
                "its first pass"
            )

    @eager
    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inside, self._running = True, None
        if not model.training:
            return
        plan, self._waiting = self._waiting, None
        self._running = self._last = plan
        images = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if plan is not None and images is not None and len(images) != plan.batch_size:
            raise ValueError(
                f"the mixer was called for a batch of {plan.batch_size}, the network's next training pass "
                f"has {len(images)}: call the mixer once for every batch that the network is trained on"
            )

    @eager
    def _visit(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        plan = self._running if self._inside else self._recomputed()
        if plan is None or plan.module is not module:
            return None
        self._running, self._acted = None, True  # once, although a module may be called again
        return plan.act(args, kwargs, output)

    @eager
    def _leave(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inside, self._running = False, None

    def _recomputed(self) -> Plan | None:
        """Return the plan of the pass that is being recomputed: a submodule runs alone during backward."""
        return None if torch._C._current_graph_task_id() == -1 else self._last


def mixing(mix: Callable[[Tensor], Tensor], batch_size: int) -> Act:
    """Return an `Act` that applies ``mix`` to a submodule's output, a tensor or a tuple led by one."""
    return partial(_mix_output, mix, batch_size)


def _mix_output(
    mix: Callable[[Tensor], Tensor],
    batch_size: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> Any:
    several = isinstance(output, (tuple, list)) and len(output) > 0
    hidden = output[0] if several else output
    if not isinstance(hidden, Tensor) or len(hidden) != batch_size:
        raise ValueError(
            f"hidden states must be a tensor of {batch_size} samples, got {type(hidden).__name__} "
            f"{tuple(getattr(hidden, 'shape', ()))}; name other submodules with layers="
        )
    mixed = mix(hidden)
    if not several:
        return mixed
    return (mixed, *output[1:]) if isinstance(output, tuple) else [mixed, *output[1:]]


def blend_hidden(hidden: Tensor, lam: Tensor, partners: Tensor) -> Tensor:
    """Blend (B, ...) hidden states with their partners', by (B,) float32 weights of the current ones."""
    weight = lam.to(hidden.dtype).view(-1, *(1,) * (hidden.dim() - 1))
    return torch.lerp(hidden[partners], hidden, weight)


def find_stages(model: nn.Module) -> list[str]:
    """Return the names of a network's stages, in order: the outermost group of siblings of one kind.

    That is ``layer1`` to ``layer4`` of a ResNet, the entries of ``stages`` of a ConvNeXt, of ``blocks`` of
    a vision transformer. A group is three or more children of one module that have parameters and are of
    one class; of groups at one depth the one with most parameters is taken. Only where no such children
    have layers within them, single layers are grouped. A network without any group gives its own
    children with parameters, except the last, which classifies.

    Raises:
        ValueError: The network has fewer than two parts with parameters.
    """
    for compound in (True, False):
        level = [("", model)]
        while level:
            groups = [group for name, module in level for group in _siblings(name, module, compound)]
            if groups and compound:
                groups.sort(key=lambda group: -sum(_weights(child) for child in group.values()))
            if groups:  # of single layers the first: the last ones are the classifier's, and large
                return list(groups[0])
            level = [
                (f"{name}.{child_name}" if name else child_name, child)
                for name, module in level
                for child_name, child in module.named_children()
            ]
    children = [name for name, child in model.named_children() if _weights(child)]
    if len(children) < 2:
        raise ValueError(
            f"no stages were found in {type(model).__name__}: name the submodules whose output is to be "
            f"mixed with layers=, names as in model.named_modules()"
        )
    return children[:-1]


def stages_of(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Return the submodules of these names."""
    known = dict(model.named_modules())
    names = list(names)
    missing = [name for name in names if not name or name not in known]
    if missing or not names:
        raise ValueError(
            f"layers= takes one or more names of submodules as in model.named_modules(), got "
            f"{', '.join(map(repr, missing or names)) or 'none'}; this {type(model).__name__} has "
            f"{', '.join(name for name, _ in model.named_children())}"
        )
    return [known[name] for name in names]


def _siblings(name: str, module: nn.Module, compound: bool) -> list[dict[str, nn.Module]]:
    """Return the groups of three or more children of one kind, by name."""
    kinds: dict[Any, dict[str, nn.Module]] = {}
    for child_name, child in module.named_children():
        parts = [type(part) for part in child.children() if _weights(part)]
        if _weights(child) and bool(parts) == compound:
            # A Sequential has the kind of its first part; otherwise a stem of layers would be a stage.
            begin = parts[:1] if isinstance(child, nn.Sequential) else []
            kind = kinds.setdefault((type(child), *begin), {})
            kind[f"{name}.{child_name}" if name else child_name] = child
    return [kind for kind in kinds.values() if len(kind) >= 3]


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
