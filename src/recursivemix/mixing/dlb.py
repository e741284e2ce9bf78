"""DLB (Shen et al., arXiv 2203.16172): repeat half of the last batch, and distil its predictions."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Inputs, Mixed, MixedBatch, unmixed
from .checks import check_logits, loss_weight, positive
from .draw import Draw
from .eager import eager
from .mixer import Mixer

log = logging.getLogger(__name__)


class Half(NamedTuple):
    """The second half of the last batch, n samples, detached copies."""

    images: Tensor
    """(n, C, ..., H, W)."""
    targets: Tensor
    """(n, K) float32."""
    labels: Tensor
    """(n,) or (n, K), as they were given."""
    probs: Tensor
    """(n, K) float32: the prediction, softened by the temperature."""
    masks: Tensor | None


class DLB(Mixer):
    """Replace the first half of a batch by the second half of the previous one.

    For the replaced samples, ``lam`` 0, the network is trained towards its prediction of one step ago: the
    KL divergence of softened predictions, times the temperature squared, averaged over them. Targets,
    labels and masks of the batch are replaced along with the images.

    Args:
        weight: Weight of the distillation, 0 or more; 1 in the paper.
        temperature: Divisor of the logits of both predictions, above 0; 3 in the paper.
        others: See `Mixer`; ``loss`` must be "ce". ``prob`` and ``per_sample`` have no meaning here, since
            nothing is drawn.
    """

    def __init__(
        self, num_classes: int, *, weight: float = 1.0, temperature: float = 3.0, **others: Any
    ) -> None:
        super().__init__(num_classes, **others)
        if self.loss_name != "ce":
            raise ValueError(
                f"DLB distils predictions of one label per image, so it needs loss='ce', got "
                f"{self.loss_name!r}"
            )
        self.weight = loss_weight("weight", weight)
        self.temperature = positive("temperature", temperature, "a divisor of logits")
        self._half: Half | None = None

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        return Draw()

    @eager
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        if not (self.enabled and self.training):
            return unmixed(inputs)
        result = unmixed(inputs)
        result = result._replace(history_probs=torch.zeros_like(result.targets))
        half = self._fitting(inputs)
        # The second half stays new, so that there is something to repeat next time.
        count = 0 if half is None else min(len(half.targets), len(inputs.images) // 2)
        if half is None or count == 0:
            return result

        def replaced(current: Tensor, past: Tensor, inplace: bool = False) -> Tensor:
            changed = current if inplace else current.clone()
            changed[:count].copy_(past[:count], non_blocking=True)
            return changed

        assert result.history_probs is not None  # made above
        masks = None
        if inputs.masks is not None and half.masks is not None:
            masks = replaced(inputs.masks, half.masks, self.inplace)
        return Mixed(
            images=replaced(inputs.images, self._moved(half.images), self.inplace),
            targets=replaced(result.targets, half.targets),
            lam=replaced(result.lam, torch.zeros_like(result.lam)),
            history_probs=replaced(result.history_probs, half.probs),
            masks=masks,
            labels=replaced(inputs.labels, half.labels),
        )

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label`` of the whole batch, and ``consistency`` of its repeated samples."""
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
        self._half = None  # an older batch is not the previous one
        if not (self.enabled and self.training):
            return
        logits = check_logits(logits, batch.targets.shape)
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
        half = state["half"] if self.stream.is_of_this_rank(state) else None
        self._half = None if half is None else Half(**half)

    def _moved(self, images: Tensor) -> Tensor:
        """Return images laid out as in `Inputs`."""
        return images.movedim(self.spatial_dims, tuple(range(-len(self.spatial_dims), 0)))

    def _fitting(self, inputs: Inputs) -> Half | None:
        """Return the remembered half if its samples fit into this batch."""
        half = self._half
        if half is None:
            return None
        fits = (
            self._moved(half.images).shape[1:] == inputs.images.shape[1:]
            and half.images.is_floating_point() == inputs.images.is_floating_point()
            and half.targets.shape[1] == inputs.num_classes
            and half.labels.shape[1:] == inputs.labels.shape[1:]
            and (half.masks is None) == (inputs.masks is None)
        )
        if not fits:
            log.warning(
                "The last batch does not fit this one (size, channels, classes, integer or floating "
                "pixels, kind of labels, masks): nothing is repeated."
            )
        return half if fits else None
