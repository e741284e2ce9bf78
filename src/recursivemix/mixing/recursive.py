"""RecursiveMix (Yang et al., arXiv 2203.06844): mixing with a memory of one step.

The previous batch, itself already mixed, is shrunk and pasted into the new one; labels are fused by area;
the network is trained to give the pasted region the prediction it gave one step ago.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .batch import Inputs, Mixed, MixedBatch, unmixed
from .checks import check_logits, known_interpolation, largest_area, loss_weight, one_of, whole_number
from .cutmix import paste_partners
from .draw import Draw, Number, centred_boxes, draw_patch, pasted_boxes, random_partners
from .history import History, Memory, detached, to_rows
from .losses import consistency, probabilities
from .mixer import Mixer
from .paste import Interpolation


class RecursiveMix(Mixer):
    """Paste the previous mixed batch, shrunk; train its region to repeat the prediction of one step ago.

    Call it, train, then `remember`: the call reads the history and `remember` is its only write. A step
    with no history to read (the first one, or after `reset`) is not mixed.

    Args:
        max_area: The pasted share of the image's area is drawn from U(0, max_area), before clipping at
            the border; in (0, 1]. The paper's alpha.
        omega: Weight of the consistency loss, 0 or more. 0 needs no region head: batches then carry no
            boxes and `loss` takes the logits alone, as volumes and sound need it, which `RegionModel` does
            not take. The authors use 0.1 on CIFAR-10 and 0.5 on ImageNet.
        growth_epochs: Epochs over which ``max_area`` rises linearly to its value, as counted by
            `start_epoch`; 0 uses the full value from the start (the authors'). Large patches remove most of
            an image that the network cannot classify yet.
        interpolation: How the history is shrunk: "nearest" (the authors'), "bilinear" or "area".
        across_epochs: Keep the history when an epoch starts (see `start_epoch`) instead of dropping it.
        partner: What is pasted: the "history", or for comparison another image of the same "batch". That
            has no earlier prediction, so ``omega`` must be 0.
        patch: "resize" shrinks the whole partner into the box; "cut" takes the partner's own pixels of the
            box, as CutMix does, and has no interpolation.
        alpha: Another name for ``max_area``; unlike everywhere else it is no Beta parameter.
        others: See `Mixer`.
    """

    draws: tuple[str, ...] = ("boxes",)

    def __init__(
        self,
        num_classes: int,
        *,
        max_area: float | None = None,
        omega: float = 0.5,
        growth_epochs: int = 0,
        interpolation: Interpolation = "nearest",
        across_epochs: bool = False,
        partner: Literal["history", "batch"] = "history",
        patch: Literal["resize", "cut"] = "resize",
        alpha: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        self.partner = one_of("partner", partner, ("history", "batch"))
        self.patch = one_of("patch", patch, ("resize", "cut"))
        self.omega = loss_weight("omega", omega)
        if partner == "batch" and omega > 0:
            raise ValueError(f"partner='batch' has no earlier predictions: set omega=0, got {omega}")
        self.max_area = largest_area(max_area, alpha)
        self.growth_epochs = whole_number("growth_epochs", growth_epochs, 0)
        self.interpolation = known_interpolation(interpolation, patch)
        self.across_epochs = across_epochs
        if partner == "batch":
            self.draws = ("boxes", "partners")
        self.memory = Memory()
        self._epochs = 0  # started so far

    @property
    def history(self) -> History | None:
        """What the last step left, if anything."""
        return self.memory.history

    @property
    def current_max_area(self) -> float:
        """``max_area`` in the current epoch: lower while it grows."""
        if self.growth_epochs == 0:
            return self.max_area
        return self.max_area * min(max(self._epochs, 1) / self.growth_epochs, 1.0)

    @property
    def trains_regions(self) -> bool:
        """Whether there is a consistency loss, and so a region head to train."""
        return self.omega > 0

    @classmethod
    def paper(cls, num_classes: int, *, omega: float = 0.5, **others: Any) -> RecursiveMix:
        """Return the published method: one box per batch, drawn up to half the area; nearest.

        Call `start_epoch` at the start of each epoch, which drops the history.
        """
        fixed: dict[str, Any] = {"max_area": 0.5, "interpolation": "nearest"}
        fixed |= {"across_epochs": False, "growth_epochs": 0}
        return cls(num_classes, omega=omega, **fixed, **others)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        area, place = draw_patch(count, len(size), self.current_max_area, self.prob, generator)
        boxes = centred_boxes(area, place, size)
        if self.partner == "history":
            return Draw(boxes=boxes)
        return Draw(boxes=boxes, partners=random_partners(batch_size, generator))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        dims, cut, boxes = self.spatial_dims, self.patch == "cut", draw.boxes
        how: dict[str, Any] = {"shrunk": not cut, "inplace": self.inplace}
        how["interpolation"] = self.interpolation
        if self.partner == "batch":
            return paste_partners(inputs, draw, **how)
        past = left_out = None
        share: Number = 1.0
        if boxes is not None:
            past = self.memory.read(inputs, dims, same_size=cut, needs_probs=self.trains_regions)
        if past is None or boxes is None:
            result = unmixed(inputs)
        else:
            result, share, left_out = self.memory.paste(inputs, boxes, past, how | {"dims": len(dims)})
        if not self.trains_regions:
            return result
        # In every step, so that no graph depends on whether something was pasted.
        if past is None or past.probs is None:
            probs = torch.zeros_like(result.targets)
        else:
            probs = to_rows(past.probs, left_out, result.targets.shape[0])
        boxes = pasted_boxes(boxes, inputs.images, len(dims), share, left_out)
        return result._replace(boxes=boxes, history_probs=probs)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label`` and ``consistency``.

        Samples that were not mixed have no weight in the consistency, yet the region head's logits are
        always part of the graph: every parameter has a gradient in every step.
        """
        if not self.trains_regions:
            return super().losses(logits, batch, region_logits)
        if region_logits is None or batch.history_probs is None:
            raise ValueError(
                f"RecursiveMix with omega={self.omega} needs the logits of a region head: call "
                f"loss(logits, batch, region_logits) with the pair from RegionModel, or build the mixer "
                f"with omega=0 to train on the fused labels alone"
            )
        losses = {"label": self.label_loss(logits, batch)}
        agreement = self.sample_losses(region_logits, batch.history_probs)
        return losses | {"consistency": self.omega * consistency(agreement, batch.lam)}

    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Make this step the history of the next one.

        Nothing is copied, so the loop must not refill images, soft labels or masks before the next call.

        Args:
            batch: What this mixer returned.
            logits: (B, K) of the main head for ``batch.images``; needed unless ``omega`` is 0.
        """
        if not self.enabled:
            self.reset()  # the history would be old by the time mixing is switched on again
        if not (self.enabled and self.training) or self.partner == "batch":
            return
        probs = None
        if self.trains_regions:
            probs = probabilities(detached(check_logits(logits, batch.targets.shape)), self.loss_name)
        self.memory.write(batch, probs)

    def reset(self) -> None:
        self.memory.reset()

    def start_epoch(self) -> None:
        """Drop the history, as the authors' code does at each epoch, unless ``across_epochs``."""
        self._epochs += 1
        if not self.across_epochs:
            self.reset()

    @property
    def stats(self) -> dict[str, int]:
        """``dropped_non_finite``: samples not mixed because a pasted pixel or a probability was not finite.

        Reading it waits for the device.
        """
        return {"dropped_non_finite": self.memory.dropped}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.memory.state_dict() | {"epochs": self._epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._epochs = state.get("epochs", 0)  # older states have none
        self.memory.load_state_dict(state, with_history=self.stream.is_of_this_rank(state))
