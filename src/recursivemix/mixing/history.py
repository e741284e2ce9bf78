"""What RecursiveMix remembers from one step to the next, and what makes it usable there."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .batch import Inputs, Mixed, MixedBatch
from .draw import Number, kept_share
from .labels import fuse_labels, lam_rows
from .paste import all_finite, not_finite, paste

log = logging.getLogger(__name__)


class History(NamedTuple):
    """The state that a step leaves to the next one. References, never copies; all of it detached."""

    images: Tensor
    """(B, C, ..., H, W): the mixed images."""
    targets: Tensor
    """(B, K) float32: the mixed targets."""
    valid: Tensor | None
    """(B,) bool: False for a sample with a probability (or a soft label) that is not finite, which is not
    used. None if all are finite, which only a CPU can tell without waiting."""
    probs: Tensor | None = None
    """(B, K) float32: the main head's prediction; None without consistency."""
    masks: Tensor | None = None
    """(B, H, W) integers: the mixed masks."""


class Memory:
    """The history of the last step: written once per step, checked when it is read, saved and restored."""

    def __init__(self) -> None:
        self.history: History | None = None
        self._versions: list[int | None] | None = None
        self._dropped = torch.zeros((), dtype=torch.long, device="cpu")

    def write(self, batch: MixedBatch, probs: Tensor | None) -> None:
        """Remember a finished step.

        Args:
            batch: What the mixer returned.
            probs: (B, K) float32, the main head's prediction, detached.
        """
        images, targets = detached(batch.images), detached(batch.targets)
        checked = [targets] if batch.labels.is_floating_point() else []
        checked += [] if probs is None else [probs]
        bad = None
        for rows in checked:
            if not all_finite(rows):
                bad = not_finite(rows) if bad is None else bad | not_finite(rows)
        valid = None if bad is None else ~bad
        self.history = History(images, targets, valid, probs, batch.masks)
        self._versions = versions_of(images, targets, batch.masks)

    def read(
        self, inputs: Inputs, dims: tuple[int, ...], *, same_size: bool, needs_probs: bool
    ) -> History | None:
        """Return the history laid out as the inputs and on their device; None if it does not fit them.

        Args:
            inputs: The new batch.
            dims: The mixed dimensions of the history's images.
            same_size: Whether the images must have the size of the inputs.
            needs_probs: Whether the history must hold predictions.

        Raises:
            ValueError: The remembered images, targets or masks were written to since.
        """
        history = self.history
        if history is None:
            return None
        check_not_written(self._versions, history.images, history.targets, history.masks)
        d, images = len(dims), inputs.images
        last = tuple(range(-d, 0))
        moved = history.images
        if dims != last:
            moved = moved.movedim(dims, last)
            history = history._replace(images=moved)
        if (
            moved.shape[1:-d] != images.shape[1:-d]
            or history.targets.shape[1] != inputs.num_classes
            or moved.is_floating_point() != images.is_floating_point()
            or (history.masks is None and inputs.masks is not None)
            or (history.probs is None and needs_probs)
            or (same_size and moved.shape[-d:] != images.shape[-d:])
        ):
            log.warning(
                "The history does not fit this batch (channels, classes, integer or floating pixels, "
                "masks, no probabilities, or another size to cut from): not mixed."
            )
            return None
        if moved.device == images.device:
            return history
        fields: dict[str, Any] = history._asdict()
        for name, value in fields.items():
            fields[name] = None if value is None else value.to(images.device, non_blocking=True)
        return History(**fields)

    def paste(
        self, inputs: Inputs, boxes: Tensor, past: History, how: dict[str, Any]
    ) -> tuple[Mixed, Number, Tensor | None]:
        """Paste the history into the inputs and fuse the labels.

        Args:
            inputs: The new batch.
            boxes: (B, 2d) or (1, 2d), where to paste.
            past: What `read` returned.
            how: Options of `paste.paste`.

        Returns:
            The mixed batch, its `kept_share`, and (B,) the samples left out as not finite (None: none).
        """
        images, masks = inputs.images, inputs.masks
        left_out = None if past.valid is None else ~past.valid
        mixed, left_out = paste(images, past.images, boxes, left_out=left_out, finite_only=True, **how)
        if masks is not None and past.masks is not None:
            masks, _ = paste(
                masks, past.masks, boxes, left_out=left_out, **how | {"interpolation": "nearest"}
            )
        lam = share = kept_share(boxes, images.shape[-how["dims"] :])
        rows = lam_rows(lam, images.shape[0], images.device)
        if left_out is not None:
            had_history = left_out[: past.targets.shape[0]]
            self._dropped = self._dropped.to(left_out.device, non_blocking=True) + had_history.sum()
            lam = rows = rows.masked_fill(left_out, 1.0)
        targets = to_rows(past.targets, left_out, images.shape[0])
        targets = fuse_labels(inputs.labels, inputs.num_classes, lam, targets)
        return Mixed(mixed, targets, rows, masks=masks), share, left_out

    @property
    def dropped(self) -> int:
        """Samples that were not pasted because of a non-finite value; reading waits for the device."""
        return int(self._dropped)

    def reset(self) -> None:
        """Forget the history."""
        self.history = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        history = None
        if self.history is not None:
            fields: dict[str, Tensor | None] = self.history._asdict()
            history = {k: v if v is None else whole_storage(v) for k, v in fields.items()}
        return {"history": history, "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any], *, with_history: bool) -> None:
        """Restore what `state_dict` returned, the history only if it is this rank's."""
        history = state["history"] if with_history else None
        self.history = None if history is None else History(**history)
        self._versions = None
        self._dropped = torch.tensor(state["dropped"], device="cpu")

    def __getstate__(self) -> dict[str, Any]:
        # A copied tensor starts counting its versions anew.
        return self.__dict__ | {"_versions": None}


def to_rows(values: Tensor, left_out: Tensor | None, batch_size: int) -> Tensor:
    """Return the first ``batch_size`` rows of (B', K); 0 where there are none or they are left out."""
    values = values[:batch_size] if values.shape[0] > batch_size else values
    if values.shape[0] < batch_size:
        values = pad(values, (0, 0, 0, batch_size - values.shape[0]))
    return values if left_out is None else values.masked_fill(left_out[:, None], 0.0)


def detached(tensor: Tensor) -> Tensor:
    """Return the tensor without its graph; itself if it has none, which costs no operation."""
    return tensor.detach() if tensor.requires_grad else tensor


def whole_storage(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy of a view: saving a view saves all of the storage it looks into."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def check_not_written(versions: list[int | None] | None, *tensors: Tensor | None) -> None:
    """Raise ValueError if tensors were written to since their `versions_of` were taken (None: unknown)."""
    if torch.compiler.is_compiling() or versions is None:
        return
    if versions != versions_of(*tensors):
        raise ValueError(
            "the last step's images, targets or masks were written over, and they are the history: let the "
            "loader make new ones, or give the mixer clones, as images.clone()"
        )


def versions_of(*tensors: Tensor | None) -> list[int | None] | None:
    """Return how often each tensor was written to, None where that is unknown; None while compiling."""
    if torch.compiler.is_compiling():
        return None
    return [None if t is None or t.is_inference() else t._version for t in tensors]
