"""RecursiveMix (Yang et al., arXiv 2203.06844): mixing with a memory of one step.

The previous batch, itself already mixed, is shrunk and pasted into the new one; labels are fused by
area; the network is asked to give the pasted region the prediction it gave one step ago.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .batch import MixedBatch
from .boxes import Interpolation, paste
from .cutmix import paste_partners
from .draw import Draw, box_shares, centred_boxes, draw_patch
from .losses import consistency
from .mixer import Inputs, Mixed, Mixer, in_range, known_interpolation, mix_rows, unmixed

log = logging.getLogger(__name__)


class History(NamedTuple):
    """What a step leaves to the next one. References, never copies; all of it detached."""

    images: Tensor
    """(B, C, ..., H, W): the mixed images."""
    targets: Tensor
    """(B, K) float32: the mixed targets."""
    valid: Tensor | None
    """(B,) bool: False for a sample with a non-finite pixel or probability, which is not used. None: all
    are sound, which only a CPU can tell without waiting."""
    probs: Tensor | None = None
    """(B, K) float32: the main head's prediction; None where no consistency is asked for."""
    masks: Tensor | None = None
    """(B, H, W) integers: the mixed masks."""


class RecursiveMix(Mixer):
    """The paper's method; `RecursiveMix.paper` is the published setting, step for step.

    Call it, train, then `remember`: the call reads the history and `remember` is its only write. A step
    with no history to read (the first one, or after `reset`) is not mixed.

    Args:
        max_area: the pasted share of the image's area is drawn from U(0, max_area), before clipping at
            the border; in [0, 1]. The paper's alpha.
        omega: weight of the consistency loss, 0 or more. 0 needs no region head: batches then carry
            no boxes and `loss` takes the logits alone; volumes and sound, which `RegionModel` does not
            take, want that. The authors use 0.1 on CIFAR-10 and 0.5 on ImageNet (paper.md 1.2).
        interpolation: how the history is shrunk: "nearest" (the authors'), "bilinear" or "area".
        across_epochs: keep the history when an epoch begins (see `start_epoch`) instead of dropping it.
        partner: what is pasted: the "history", or for comparison another image of the same "batch", of
            which nothing was predicted before, so that ``omega`` must be 0.
        patch: "resize" shrinks the whole partner into the box; "cut" takes the partner's own pixels of the
            box, as CutMix does.
        alpha: another name for ``max_area``; unlike everywhere else it is no Beta parameter.
        others: see `Mixer`.
    """

    draws: tuple[str, ...] = ("boxes",)

    def __init__(
        self,
        num_classes: int,
        *,
        max_area: float | None = None,
        omega: float = 0.5,
        interpolation: Interpolation = "nearest",
        across_epochs: bool = False,
        partner: Literal["history", "batch"] = "history",
        patch: Literal["resize", "cut"] = "resize",
        alpha: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        if partner not in ("history", "batch"):
            raise ValueError(f"partner must be 'history' or 'batch', got {partner!r}")
        if patch not in ("resize", "cut"):
            raise ValueError(f"patch must be 'resize' or 'cut', got {patch!r}")
        if partner == "batch" and omega > 0:
            raise ValueError(
                f"partner='batch' pastes images of which no earlier prediction is known, so there is no "
                f"consistency: give omega=0, got {omega}"
            )
        if max_area is not None and alpha is not None:
            raise ValueError(f"alpha is max_area by another name: got both, {alpha} and {max_area}")
        share = max_area if max_area is not None else alpha if alpha is not None else 0.5
        self.max_area = in_range("max_area", share, 0, 1)
        if not 0 <= omega < math.inf:
            raise ValueError(f"omega is the weight of a loss and must be 0 or more, got {omega}")
        self.omega = omega
        self.interpolation = known_interpolation(interpolation)
        self.across_epochs = across_epochs
        self.partner = partner
        self.patch = patch
        if partner == "batch":
            self.draws = ("boxes", "partners")
        self.history: History | None = None
        self._version: int | None = None
        self._dropped = torch.zeros((), dtype=torch.long)

    @property
    def trains_regions(self) -> bool:
        """Whether there is a consistency loss, and so a region head to train."""
        return self.omega > 0

    @classmethod
    def paper(cls, num_classes: int, *, omega: float = 0.5, **others: Any) -> RecursiveMix:
        """The published method (paper.md 1.2): one box a batch, drawn up to half the area; nearest.

        Call `start_epoch` as each epoch begins, there the history is dropped.
        """
        fixed: dict[str, Any] = {"max_area": 0.5, "interpolation": "nearest", "across_epochs": False}
        return cls(num_classes, omega=omega, **fixed, **others)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        area, place = draw_patch(count, len(size), self.max_area, self.prob, generator)
        boxes = centred_boxes(area, place, size)
        if self.partner == "history":
            return Draw(boxes=boxes)
        return Draw(boxes=boxes, partners=torch.randperm(batch_size, generator=generator))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        shrunk = self.patch == "resize"
        if self.partner == "batch":
            return paste_partners(
                inputs, draw, shrunk=shrunk, inplace=self.inplace, interpolation=self.interpolation
            )
        images, targets, masks = inputs.images, inputs.targets, inputs.masks
        batch_size, size = len(images), images.shape[-len(self.spatial_dims) :]
        device = images.device
        whole = torch.tensor([[0] * len(size) + list(size[::-1])])  # (1, 2 d), as the draw on the CPU
        past = self._history_for(inputs)
        if past is None or draw.boxes is None:
            boxes = whole.to(device, non_blocking=True).repeat(batch_size, 1)
            return self._with_regions(unmixed(inputs), boxes, torch.zeros_like(targets))

        shares = box_shares(draw.boxes, size)
        lam = (1 - shares).float().to(device, non_blocking=True).expand(batch_size).contiguous()
        boxes = torch.where(shares[:, None] > 0, draw.boxes, whole)
        boxes = boxes.to(device, non_blocking=True).expand(batch_size, -1).contiguous()
        past_targets = _to_length(past.targets, batch_size)
        probs = None if past.probs is None else _to_length(past.probs, batch_size)
        paired: Tensor | None = None
        if past.valid is not None or len(past.targets) < batch_size:
            # Only a sample with a sound history sample in its place is mixed.
            sound = torch.ones_like(past.targets[:, 0], dtype=torch.bool)
            paired = _to_length(sound if past.valid is None else past.valid, batch_size)
            lam = torch.where(paired, lam, 1.0)
            boxes = torch.where(paired[:, None], boxes, whole.to(device, non_blocking=True))
            past_targets = torch.where(paired[:, None], past_targets, 0.0)
            probs = None if probs is None else torch.where(paired[:, None], probs, 0.0)

        paste_history = partial(
            paste, boxes=draw.boxes, dims=len(size), shrunk=shrunk, mixed=paired, inplace=self.inplace
        )
        mixed_masks = None
        if masks is not None and past.masks is not None:
            mixed_masks = paste_history(masks, past.masks)
        result = Mixed(
            paste_history(images, past.images, interpolation=self.interpolation),
            mix_rows(lam, targets, past_targets),
            lam,
            masks=mixed_masks,
        )
        return self._with_regions(result, boxes, probs)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``label`` and ``consistency``: paper.md 1.2, step 6.

        Samples that were not mixed weigh nothing in the consistency, yet the region head's logits are
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

    @torch.no_grad()
    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Make this step the history of the next one.

        Nothing is copied, so the loop must not refill ``batch.images`` before the next call.

        Args:
            batch: what this mixer returned.
            logits: (B, K) of the main head for ``batch.images``; needed unless ``omega`` is 0.
        """
        if not self.enabled:
            self.reset()  # what is old by the time mixing starts again is no history
        if not (self.enabled and self.training) or self.partner == "batch":
            return
        images, targets = batch.images.detach(), batch.targets.detach()
        # A sum is finite exactly if its terms are (and it does not overflow): one cheap pass.
        check = targets.sum(-1)
        if images.is_floating_point():
            wide = torch.float64 if images.dtype == torch.float64 else torch.float32
            check = check + images.sum(tuple(range(1, images.dim())), dtype=wide)
        probs = None
        if self.trains_regions:
            if logits is None or logits.shape != targets.shape:
                raise ValueError(
                    f"remember needs the main head's logits of shape {tuple(targets.shape)}, got "
                    f"{None if logits is None else tuple(logits.shape)}"
                )
            raw = logits.detach().float()
            probs = raw.softmax(-1) if self.loss_name == "ce" else raw.sigmoid()
            check = check + probs.sum(-1)
        valid = torch.isfinite(check)
        free_to_read = images.device.type == "cpu" and not torch.compiler.is_compiling()
        sound = free_to_read and bool(valid.all())
        if not sound:
            self._dropped = self._dropped + (~valid).sum()
        self.history = History(images, targets, None if sound else valid, probs, batch.masks)
        self._version = version_of(images)

    def reset(self) -> None:
        self.history = None

    def start_epoch(self) -> None:
        """Drop the history, as the authors' code does at each epoch, unless ``across_epochs``."""
        if not self.across_epochs:
            self.reset()

    @property
    def stats(self) -> dict[str, int]:
        """``dropped_non_finite``: samples kept out of the history; reading it waits for the device."""
        return {"dropped_non_finite": int(self._dropped)}

    def state_dict(self) -> dict[str, Any]:
        history = None
        if self.history is not None:
            # A view would be saved with all that it is a view of, a whole data set perhaps.
            fields: dict[str, Tensor | None] = self.history._asdict()
            history = {
                name: value if value is None else own_storage(value) for name, value in fields.items()
            }
        return super().state_dict() | {"history": history, "dropped": int(self._dropped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        history = state["history"] if self._is_own(state) else None
        self.history = None if history is None else History(**history)
        self._version = None
        self._dropped = torch.tensor(state["dropped"])

    def __getstate__(self) -> dict[str, Any]:
        # A copied tensor starts counting anew.
        return self.__dict__ | {"_version": None}

    def _with_regions(self, result: Mixed, boxes: Tensor, probs: Tensor | None) -> Mixed:
        """Add boxes and history probabilities, in every step, so that no graph depends on a draw."""
        if not self.trains_regions:
            return result
        return result._replace(boxes=boxes, history_probs=probs)

    def _history_for(self, inputs: Inputs) -> History | None:
        """The history laid out as the inputs, on their device; None where none fits them."""
        past, d = self.history, len(self.spatial_dims)
        if past is None:
            return None
        if not torch.compiler.is_compiling() and self._version not in (None, version_of(past.images)):
            raise ValueError(
                "the last step's images were written over, and they are the history: let the loader make "
                "new ones, or give the mixer images.clone()"
            )
        moved = past.images.movedim(self.spatial_dims, tuple(range(-d, 0)))
        past = past._replace(images=moved)
        if (
            moved.shape[1:-d] != inputs.images.shape[1:-d]
            or past.targets.shape[1] != inputs.targets.shape[1]
            or past.images.is_floating_point() != inputs.images.is_floating_point()
            or (past.masks is None and inputs.masks is not None)
            or (past.probs is None and self.trains_regions)
            or (self.patch == "cut" and moved.shape[-d:] != inputs.images.shape[-d:])
        ):
            log.warning(
                "The history does not fit this batch (channels, classes, integer or floating pixels, "
                "masks, no probabilities, or another size to cut from): not mixed."
            )
            return None
        if past.images.device == inputs.images.device:
            return past
        device = inputs.images.device
        fields: dict[str, Any] = past._asdict()
        for name, tensor in fields.items():
            fields[name] = tensor if tensor is None else tensor.to(device, non_blocking=True)
        return History(**fields)


def own_storage(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it is part of a larger storage."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def version_of(tensor: Tensor) -> int | None:
    """How often the tensor was written into; None where that can't be told."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return tensor._version


def _to_length(rows: Tensor, length: int) -> Tensor:
    """The first ``length`` rows of (B,) or (B, K); missing ones are False or 0."""
    missing = length - len(rows)
    if missing <= 0:
        return rows[:length]
    return pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing))
