"""Temporal ensembling (Laine & Aila, arXiv 1610.02242): agree with earlier predictions of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .batch import Inputs, Mixed, MixedBatch, unmixed
from .checks import check_logits, in_range, loss_weight
from .draw import Draw
from .eager import eager
from .losses import probabilities, ramp_up, squared_difference
from .mixer import Mixer


class TemporalEnsembling(Mixer):
    """Mix nothing; compare each prediction with the average of the network's earlier ones of that sample.

    Call it with ``indices``, take the loss, then `remember`; call `start_epoch` at the start of each epoch,
    since the weight of the consistency rises with the epochs. ``batch.history_probs`` is the ensemble's
    prediction. It is 0 for a sample that was not seen before, which adds nothing to the consistency.

    Args:
        weight: Weight of the consistency, 0 or more; 30 in the paper, where all samples have labels.
        momentum: Momentum of the ensemble, in [0, 1); 0.6 in the paper.
        rampup: Epochs over which the weight rises as ``exp(-5 (1 - t)^2)``; 80 in the paper, of 300.
        others: See `Mixer`; ``prob`` and ``per_sample`` have no meaning here, since nothing is drawn.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        weight: float = 30.0,
        momentum: float = 0.6,
        rampup: float = 80,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        self.weight = loss_weight("weight", weight)
        self.momentum = in_range("momentum", momentum, 0, 1)
        if momentum == 1:
            raise ValueError("momentum must be below 1: the ensemble would never change")
        self.rampup = in_range("rampup", rampup, 0, float("inf"))
        self._epochs = 0
        # (N, K), where the logits are; and (N,) the number of predictions in each row, on the CPU
        self._ensemble = torch.zeros(0, num_classes, dtype=torch.float32, device="cpu")
        self._counts = torch.zeros(0, dtype=torch.long, device="cpu")
        self._indices: Tensor | None = None  # of the batch that `remember` comes for

    @property
    def epoch(self) -> int:
        """The current epoch, from 0, as counted by `start_epoch`."""
        return max(self._epochs - 1, 0)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        return Draw()

    @eager
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        self._indices = None
        if not (self.enabled and self.training):
            return unmixed(inputs)
        indices = inputs.indices
        if indices is None or int(indices.min()) < 0:
            raise ValueError(
                "TemporalEnsembling remembers every sample, so it needs their positions in the data set, "
                "counted from 0: call mixer(images, labels, indices=indices)"
            )
        self._indices = indices
        result = unmixed(inputs)
        device = result.targets.device
        if len(self._counts) == 0:
            return result._replace(history_probs=torch.zeros_like(result.targets))
        self._ensemble = self._ensemble.to(device)
        places = indices.clamp(max=len(self._counts) - 1)
        counts = torch.where(indices == places, self._counts[places], 0)
        # Start-up bias: the ensemble began at 0. A sample without a prediction keeps its 0.
        scale = torch.where(counts > 0, 1 / (1 - self.momentum ** counts.double()), 0.0).float()
        rows = self._ensemble[places.to(device, non_blocking=True)]
        probs = rows * scale.to(device, non_blocking=True)[:, None]
        return result._replace(history_probs=probs)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label`` and ``consistency``, the mean squared difference to the ensemble."""
        losses = super().losses(logits, batch, region_logits)
        past = batch.history_probs
        if past is None:
            return losses | {"consistency": torch.zeros_like(losses["label"])}
        difference = squared_difference(probabilities(logits, self.loss_name), past)
        seen = past.sum(-1) > 0
        factor = self.weight * ramp_up(self.epoch, self.rampup)
        return losses | {"consistency": factor * (difference * seen).mean()}

    @torch.no_grad()
    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Add the step's predictions to the ensemble of its samples.

        Args:
            batch: what this mixer returned last.
            logits: (B, K) of the main head.
        """
        indices, self._indices = self._indices, None
        if batch.history_probs is None or not (self.enabled and self.training):
            return
        if indices is None or len(indices) != len(batch.targets):
            raise ValueError("remember takes the mixer's last batch, once: call the mixer before it")
        logits = check_logits(logits, batch.targets.shape)
        self._grow(int(indices.max()) + 1, logits.device)
        rows, newest = _last_of_each(indices)
        probs = probabilities(logits.detach(), self.loss_name)
        if newest is not None:
            probs = probs[newest.to(probs.device, non_blocking=True)]
        self._counts[rows] += 1
        rows = rows.to(probs.device, non_blocking=True)
        self._ensemble[rows] = torch.lerp(probs, self._ensemble[rows], self.momentum)

    def reset(self) -> None:
        """Forget all predictions; the epochs stay counted."""
        self._ensemble, self._counts = self._ensemble[:0], self._counts[:0]
        self._indices = None

    def start_epoch(self) -> None:
        """Count the epoch, by which the weight of the consistency rises."""
        self._epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "epochs": self._epochs,
            "ensemble": self._ensemble.clone(),  # written to by every step
            "counts": self._counts.clone(),
            "indices": self._indices,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        classes = state["ensemble"].shape[1] if "ensemble" in state else self.num_classes
        if classes != self.num_classes:
            raise ValueError(f"this is the state of {classes} classes, this mixer has {self.num_classes}")
        super().load_state_dict(state)
        self._epochs = state["epochs"]
        self.reset()
        if self.stream.is_of_this_rank(state):
            self._ensemble, self._counts = state["ensemble"].clone(), state["counts"].cpu().clone()
            self._indices = state["indices"]

    def _grow(self, length: int, device: torch.device) -> None:
        have = len(self._counts)
        self._ensemble = self._ensemble.to(device)
        if length > have:
            more = max(length, have + have // 4) - have  # rarely, in whatever order the indices come
            self._ensemble = torch.cat([self._ensemble, self._ensemble.new_zeros(more, self.num_classes)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(more)])


def _last_of_each(indices: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return every index once, and its last position; None for that if no index repeats. All on the CPU."""
    unique, inverse = torch.unique(indices, return_inverse=True)
    if len(unique) == len(indices):
        return indices, None
    places = torch.arange(len(indices), device=indices.device)
    return unique, torch.zeros_like(unique).scatter_reduce(0, inverse, places, "amax", include_self=False)
