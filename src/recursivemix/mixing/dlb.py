"""DLB (Shen et al., arXiv 2203.16172): half of each batch is repeated, and distilled, from the last one."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import MixedBatch
from .draw import Draw
from .mixer import Inputs, Mixed, Mixer, loss_weight, unmixed

log = logging.getLogger(__name__)


class Half(NamedTuple):
    """The second half of the last batch, n samples, detached copies."""

    images: Tensor
    """(n, C, ..., H, W)."""
    targets: Tensor
    """(n, K) float32."""
    labels: Tensor
    """(n,) or (n, K), as they came in."""
    probs: Tensor
    """(n, K) float32: the prediction, softened by the temperature."""
    masks: Tensor | None


class DLB(Mixer):
    """The first half of a batch is replaced by the second half of the previous one.

    The network is asked to say of the replaced samples, ``lam`` 0, what it said one step ago: the KL
    divergence of softened predictions, times the temperature squared, averaged over them. Everything of a
    batch (targets, labels, masks) is of the samples that stand there now.

    Args:
        weight: of the distillation, 0 or more; 1 in the paper.
        temperature: above 0, divides the logits of both predictions; 3 in the paper.
        others: see `Mixer`; ``loss`` must be "ce". ``prob`` and ``per_sample`` have no meaning here, since
            nothing is drawn.
    """

    def __init__(
        self, num_classes: int, *, weight: float = 1.0, temperature: float = 3.0, **others: Any
    ) -> None:
        super().__init__(num_classes, **others)
        if self.loss_name != "ce":
            raise ValueError(
                f"DLB distils predictions that are shares of one label, so it needs loss='ce', got "
                f"{self.loss_name!r}"
            )
        self.weight = loss_weight("weight", weight)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
        self.temperature = float(temperature)
        self._half: Half | None = None

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        return Draw()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        if not (self.enabled and self.training):
            return unmixed(inputs)
        result = unmixed(inputs)._replace(history_probs=torch.zeros_like(inputs.targets))
        half = self._fitting(inputs)
        # The second half stays new, so that there is something to repeat next time.
        count = 0 if half is None else min(len(half.targets), len(inputs.images) // 2)
        if half is None or count == 0:
            return result

        def replaced(own: Tensor, past: Tensor, inplace: bool = False) -> Tensor:
            changed = own if inplace else own.clone()
            changed[:count].copy_(past[:count], non_blocking=True)
            return changed

        assert result.history_probs is not None  # made above
        masks = None
        if inputs.masks is not None and half.masks is not None:
            masks = replaced(inputs.masks, half.masks, self.inplace)
        return Mixed(
            images=replaced(inputs.images, self._moved(half.images), self.inplace),
            targets=replaced(inputs.targets, half.targets),
            lam=replaced(result.lam, torch.zeros_like(result.lam)),
            history_probs=replaced(result.history_probs, half.probs),
            masks=masks,
            labels=None if inputs.labels is None else replaced(inputs.labels, half.labels),
        )

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``label`` of the whole batch, and ``consistency`` of its repeated samples."""
        losses = super().losses(logits, batch, region_logits)
        if batch.history_probs is None:
            return losses | {"consistency": torch.zeros_like(losses["label"])}
        now = F.log_softmax(logits.float() / self.temperature, -1)
        divergence = F.kl_div(now, batch.history_probs, reduction="none").sum(-1)  # (B,)
        repeated = 1 - batch.lam
        mean = (repeated * divergence).sum() / repeated.sum().clamp(min=1)
        return losses | {"consistency": self.weight * self.temperature**2 * mean}

    @torch.no_grad()
    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Keep the second half of this step for the next one: copies of half a batch.

        Args:
            batch: what this mixer returned.
            logits: (B, K) of the main head.
        """
        self._half = None  # what is old by the time it is asked for again is no last batch
        if not (self.enabled and self.training):
            return
        if logits is None or logits.shape != batch.targets.shape:
            raise ValueError(
                f"remember needs the main head's logits of shape {tuple(batch.targets.shape)}, got "
                f"{None if logits is None else tuple(logits.shape)}"
            )
        first = len(batch.images) - len(batch.images) // 2
        self._half = Half(
            batch.images[first:].detach().clone(),
            batch.targets[first:].clone(),
            batch.labels[first:].clone(),
            (logits[first:].detach().float() / self.temperature).softmax(-1),
            None if batch.masks is None else batch.masks[first:].clone(),
        )

    def reset(self) -> None:
        self._half = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"half": None if self._half is None else self._half._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        half = state["half"] if self._is_own(state) else None
        self._half = None if half is None else Half(**half)

    def _moved(self, images: Tensor) -> Tensor:
        """Laid out as `Inputs` are."""
        return images.movedim(self.spatial_dims, tuple(range(-len(self.spatial_dims), 0)))

    def _fitting(self, inputs: Inputs) -> Half | None:
        """The last half, if its samples can stand in this batch."""
        half, labels = self._half, inputs.labels
        if half is None:
            return None
        fits = (
            self._moved(half.images).shape[1:] == inputs.images.shape[1:]
            and half.images.is_floating_point() == inputs.images.is_floating_point()
            and (labels is None or half.labels.shape[1:] == labels.shape[1:])
            and (half.masks is None) == (inputs.masks is None)
        )
        if not fits:
            log.warning(
                "The last batch does not fit this one (size, channels, integer or floating pixels, kind of "
                "labels, masks): nothing is repeated."
            )
        return half if fits else None
