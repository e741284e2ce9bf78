"""Several mixing methods by turns, as timm's ``Mixup`` changes between MixUp and CutMix."""

from __future__ import annotations

import inspect
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .batch import Inputs, Mixed, MixedBatch
from .draw import Draw, as_column, pasted_boxes, uniform_numbers
from .eager import eager
from .mixer import Mixer

DEFAULT: dict[str, dict[str, Any]] = {"recursivemix": {}, "cutmix": {}}


class Alternate(Mixer):
    """Each batch is mixed by one of several methods, drawn by weight.

    A member with a history remembers every batch, also those of the other members. The region head is
    trained on the batches of members that have boxes.

    Args:
        members: Options of each method by its name, such as ``{"mixup": {"alpha": 0.8}, "cutmix": {}}``;
            methods that work inside the network or replace labels cannot be members.
        weights: Relative frequency of each member, at least 0; None draws all equally often.
        others: See `Mixer`; they hold for all members, whose options may only set ``prob`` anew.
    """

    draws = ("member",)

    def __init__(
        self,
        num_classes: int,
        *,
        members: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Sequence[float] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        members = DEFAULT if members is None else members
        self.members = create_members(num_classes, members, others)
        self.names = tuple(members)
        self.weights = check_weights(weights, len(self.members))
        self.blends = any(member.blends for member in self.members)

    @property
    def trains_regions(self) -> bool:
        """Whether a member does."""
        return any(member.trains_regions for member in self.members)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        (place,) = uniform_numbers(1, 1, generator)
        chosen = bisect(list(accumulate(self.weights[:-1])), place)
        draw = self.members[chosen].make_draw(batch_size, size, generator)
        return draw._replace(member=as_column(chosen, torch.int64))

    def drawn_fields(self, draw: Draw) -> tuple[str, ...]:
        """Return the fields of the member that made a draw, and ``member``."""
        value: Any = draw.member
        if value is None:
            return self.draws
        if not isinstance(value, Tensor) or value.shape != (1,) or value.dtype != torch.int64:
            raise ValueError(f"draw.member must be a tensor of one int64 number, got {value!r}")
        return (*self.member_of(draw).draws, "member")

    def member_of(self, draw: Draw) -> Mixer:
        """Return the member that made a draw; of an empty draw, one that trains regions if there is one.

        Raises:
            ValueError: there is no such member.
        """
        if draw.member is None:
            return next((member for member in self.members if member.trains_regions), self.members[0])
        number = read_number(draw.member)
        if not 0 <= number < len(self.members):
            raise ValueError(f"draw.member must be in 0..{len(self.members) - 1}, got {number}")
        return self.members[number]

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        mixed = self.member_of(draw).apply(inputs, draw._replace(member=None))
        boxes, probs = mixed.boxes, mixed.history_probs
        if self.trains_regions and boxes is None:
            boxes = pasted_boxes(None, inputs.images, len(self.spatial_dims), 1.0, None)
            probs = torch.zeros_like(mixed.targets)
        # Always a new one: torch 2.11 cannot compile the return of one that came through a graph break.
        return Mixed(mixed.images, mixed.targets, mixed.lam, boxes, probs, mixed.masks, mixed.labels)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the terms of the member that mixed the batch.

        Where a member trains regions, there is a ``consistency`` in every step, 0 for the other members.
        """
        member = self.member_of(batch.draw)
        if member.trains_regions or not self.trains_regions:
            return member.losses(logits, batch, region_logits)
        losses = member.losses(logits, batch)
        unmixed = replace(batch, lam=torch.ones_like(batch.lam))
        idle = self.member_of(Draw()).losses(logits.detach(), unmixed, region_logits)
        return losses | {"consistency": idle["consistency"]}

    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        for member in self.members:
            member.enabled, member.training = self.enabled, self.training
            member.remember(batch, logits)

    def reset(self) -> None:
        for member in self.members:
            member.reset()

    def start_epoch(self) -> None:
        for member in self.members:
            member.start_epoch()

    @property
    def stats(self) -> dict[str, int]:
        """The counters of all members."""
        return {name: count for member in self.members for name, count in member.stats.items()}

    def state_dict(self) -> dict[str, Any]:
        members = {name: m.state_dict() for name, m in zip(self.names, self.members, strict=True)}
        return super().state_dict() | {"members": members}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        given = tuple(state.get("members", ()))
        if state.get("mixer") == type(self).__name__ and given != self.names:
            raise ValueError(
                f"this is the state of the members {', '.join(given)}, it can't be loaded into "
                f"{', '.join(self.names)}"
            )
        super().load_state_dict(state)
        for name, member in zip(self.names, self.members, strict=True):
            member.load_state_dict(state["members"][name])


def create_members(
    num_classes: int, members: Mapping[str, Mapping[str, Any]], others: dict[str, Any]
) -> list[Mixer]:
    """Return the mixers by name, with the options that they share.

    Raises:
        ValueError: no members, a method that cannot be one, or an option that all must share.
    """
    from . import MIXERS, create_mixer

    possible = [name for name, kind in MIXERS.items() if may_be_member(name, kind)]
    if not isinstance(members, Mapping) or not members:
        raise ValueError(
            f"members must be a table of at least one mixer and its options, such as {DEFAULT}, got "
            f"{members!r}"
        )
    made = []
    for name, options in members.items():
        if name not in possible:
            raise ValueError(f"members must be among {', '.join(possible)}, got {name!r}")
        if not isinstance(options, Mapping):
            raise ValueError(f"members: the options of {name} must be a table, got {options!r}")
        shared = sorted((options.keys() & inspect.signature(Mixer).parameters.keys()) - {"prob"})
        if shared:
            raise ValueError(f"members: {name} cannot have its own {shared[0]}: give it to the alternation")
        made.append(create_mixer(name, num_classes, **{**others, **options}))
    return made


def may_be_member(name: str, kind: type[Mixer]) -> bool:
    """Return whether a method mixes (or passes on) a batch by itself."""
    return not kind.needs_model and kind is not Alternate and (bool(kind.draws) or name == "none")


def check_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Return ``count`` shares that sum to 1.

    Raises:
        ValueError: another number of weights, or one that is no share.
    """
    given = [1.0] * count if weights is None else weights
    numbers = isinstance(given, Sequence) and all(isinstance(w, (int, float)) for w in given)
    if (
        not numbers
        or len(given) != count
        or not all(0 <= w < float("inf") for w in given)
        or not sum(given)
    ):
        raise ValueError(
            f"weights must be {count} numbers of at least 0, one for each member, and one above 0, got "
            f"{weights!r}"
        )
    return tuple(float(weight) / sum(given) for weight in given)


@eager
def read_number(value: Tensor) -> int:
    """Return the number in a tensor on the CPU."""
    return int(value.tolist()[0])
