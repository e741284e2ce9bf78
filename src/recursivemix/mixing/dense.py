"""RecursiveMix for detection, instance and semantic segmentation: the pasted image keeps its annotations.

The previous batch, itself already mixed, is shrunk and pasted into the new one with its boxes and masks or
its label maps; objects under the patch are trimmed or dropped. Every pixel has its own annotation, so no
label is fused and the method has no loss of its own. The patch is drawn as `RecursiveMix` draws it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from .checks import in_range, known_interpolation, non_negative, share
from .dense_checks import check_draw, check_images, check_targets
from .dense_targets import DenseTarget, shrunk_into, uncovered
from .draw import Draw, centred_boxes, draw_patch
from .history import check_not_written, versions_of, whole_storage
from .paste import Interpolation, paste
from .stream import Stream

log = logging.getLogger(__name__)


ImagesT = TypeVar("ImagesT", bound=Tensor | list[Tensor])
TargetsT = TypeVar("TargetsT", bound=Tensor | list[Tensor] | list[DenseTarget])


class DenseBatch(NamedTuple, Generic[ImagesT, TargetsT]):
    """One mixed batch; images and targets have the form that was given: a tensor, or a list."""

    images: ImagesT
    """(B, C, H, W), or B times (C, H, W); with the dtype, device and memory format of the input."""
    targets: TargetsT
    """B `DenseTarget`, or label maps (B, H, W) or B times (H, W). The objects of the current image come
    first, then the pasted ones."""
    lam: Tensor
    """(B,) float32: share of the pixels that show the current image; 1 where nothing was pasted."""
    boxes: Tensor
    """(B, 4) int64 ``(x1, y1, x2, y2)`` pixels, end-exclusive: where the history was pasted; the whole
    image where nothing was."""
    draw: Draw
    """``mixer(..., draw=batch.draw)`` replays the batch as long as the mixer holds the same history."""


class DenseHistory(NamedTuple):
    """The state that a step leaves to the next one. References, never copies; all of it detached."""

    images: Tensor | list[Tensor]
    targets: Any
    """As in `DenseBatch`."""
    valid: Tensor | None
    """(B,) bool: False for an image with a non-finite pixel, which is not used. None for integers."""


class DenseRecursiveMix:
    """``batch = mixer(images, targets)``, train on it, then ``mixer.remember(batch)``, the only write.

    Sample i gets the whole sample i of the previous batch, shrunk. A step or a sample without one is not
    mixed. Objects are dropped by what is visible of them, so a call with boxes waits for the device.

    Args:
        max_area: The pasted share of the image's area is drawn from U(0, max_area), before clipping at the
            border; in (0, 1].
        prob: Share of batches that are mixed, in [0, 1].
        interpolation: How images are shrunk: "nearest", "bilinear" or "area". Masks and label maps are
            always shrunk by nearest: their values are never blended.
        min_side: Pixels; a pasted or partly covered object whose box has a smaller side is dropped.
        min_visible: Share of its box (with masks: of its mask) that an object must show beside the patch
            of this step, or it is dropped; in [0, 1].
        across_epochs: Keep the history when an epoch starts (see `start_epoch`) instead of dropping it.
        seed: Seed of this mixer's random stream.
        rank: Rank of this process, part of the seed; None asks torch.distributed, then the launcher.
        sync_ranks: Draw the same on every rank.
    """

    def __init__(
        self,
        *,
        max_area: float = 0.5,
        prob: float = 1.0,
        interpolation: Interpolation = "bilinear",
        min_side: float = 4.0,
        min_visible: float = 0.3,
        across_epochs: bool = False,
        seed: int = 0,
        rank: int | None = None,
        sync_ranks: bool = False,
    ) -> None:
        self.max_area = share("max_area", max_area, "the image's area")
        self.prob = in_range("prob", prob, 0, 1)
        self.interpolation = known_interpolation(interpolation)
        self.min_side = non_negative("min_side", min_side, "a length in pixels")
        self.min_visible = in_range("min_visible", min_visible, 0, 1)
        self.across_epochs = across_epochs
        self.stream = Stream(seed, rank, sync_ranks)
        self.enabled = True
        self.training = True
        self.history: DenseHistory | None = None
        self._versions: list[int | None] | None = None
        self._too_small = 0
        self._covered = 0
        self._non_finite = torch.zeros((), dtype=torch.long, device="cpu")

    # -- the call -------------------------------------------------------------------------------

    def __call__(
        self, images: ImagesT, targets: TargetsT, *, draw: Draw | None = None
    ) -> DenseBatch[ImagesT, TargetsT]:
        """Mix one batch; the inputs are not written to, and what is not mixed is returned itself.

        Args:
            images: (B, C, H, W), or a list of (C, H, W) of any sizes; floating or uint8.
            targets: A list of `DenseTarget`, or label maps: (B, H, W) or a list of (H, W), integers. A
                value that means "ignore" is pasted like any other.
            draw: A `Draw` to replay; None draws from this mixer's stream.

        Raises:
            ValueError: An input of another kind; the message says what came and what is allowed.
        """
        check_images(images)
        check_targets(images, targets)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if draw is not None:
            check_draw(draw, sizes)
        if not (self.enabled and self.training):
            draw = Draw()
        elif draw is None:
            draw = self.draw(sizes)
        lam, boxes = [1.0] * len(sizes), [[0, 0, width, height] for height, width in sizes]
        new_images: Any = images
        new_targets: Any = targets
        past = None if draw.boxes is None else self._history_for(images, targets)
        if past is not None and draw.boxes is not None:
            usable = [True] * len(past.images) if past.valid is None else past.valid.tolist()
            patches = draw.boxes.tolist()
            pairs = zip(patches, usable, strict=False)  # either may be the longer one
            rows = [i for i, ((x1, y1, x2, y2), ok) in enumerate(pairs) if ok and x2 > x1 and y2 > y1]
            new_images, new_targets = _writable(images, rows), _writable(targets, rows)
            for i in rows:
                x1, y1, x2, y2 = boxes[i] = patches[i]
                lam[i] = 1 - (x2 - x1) * (y2 - y1) / math.prod(sizes[i])
                box = draw.boxes[i : i + 1]
                _paste_into(new_images[i], past.images[i], box, self.interpolation)
                if isinstance(new_targets[i], Tensor):
                    _paste_into(new_targets[i], past.targets[i], box, "nearest")
                else:
                    past_size = (past.images[i].shape[-2], past.images[i].shape[-1])
                    new_targets[i] = self._join(
                        new_targets[i], past.targets[i], patches[i], sizes[i], past_size
                    )
        device = images[0].device
        return DenseBatch(
            new_images,
            new_targets,
            torch.tensor(lam, dtype=torch.float32).to(device, non_blocking=True),
            torch.tensor(boxes).to(device, non_blocking=True),
            draw,
        )

    def draw(self, sizes: Sequence[tuple[int, int]]) -> Draw:
        """Draw one patch for a batch of images of these (H, W); its boxes are (B, 4), one per size."""
        area, place = draw_patch(1, 2, self.max_area, self.prob, self.stream.generator)
        return Draw(boxes=torch.cat([centred_boxes(area, place, size) for size in sizes]))

    def _join(
        self,
        current: DenseTarget,
        past: DenseTarget,
        patch: list[int],
        size: tuple[int, int],
        past_size: tuple[int, int],
    ) -> DenseTarget:
        """Return the remaining current objects, then the pasted ones; count the dropped ones."""
        hidden, small, left = uncovered(current, patch, self.min_visible, self.min_side)
        lost, pasted = shrunk_into(past, past_size, patch, size, self.min_side)
        self._covered += hidden
        self._too_small += small + lost
        boxes = torch.cat([left.boxes, pasted.boxes.to(left.boxes.device)])
        labels = torch.cat([left.labels, pasted.labels.to(left.labels.device)])
        if left.masks is None or pasted.masks is None:
            return DenseTarget(boxes, labels)
        return DenseTarget(boxes, labels, torch.cat([left.masks, pasted.masks.to(left.masks.device)]))

    # -- the history ----------------------------------------------------------------------------

    @torch.no_grad()
    def remember(self, batch: DenseBatch[Any, Any]) -> None:
        """Make this step the history of the next one.

        Nothing is copied, so the loop must not refill the batch's tensors before the next call.
        """
        if not self.enabled:
            self.reset()  # the history would be old by the time mixing is switched on again
        if not (self.enabled and self.training):
            return
        images, targets = _detached(batch.images), _detached(batch.targets)
        valid = None
        if images[0].is_floating_point():
            wide = torch.float64 if images[0].dtype == torch.float64 else torch.float32
            # A sum is finite exactly if its terms are (and it does not overflow).
            valid = torch.isfinite(torch.stack([image.sum(dtype=wide) for image in images]))
            self._non_finite = self._non_finite.to(valid.device) + (~valid).sum()
        self.history = DenseHistory(images, targets, valid)
        self._versions = versions_of(*_tensors(images), *_tensors(targets))

    def reset(self) -> None:
        """Forget the history; the random stream continues."""
        self.history = None

    def start_epoch(self) -> None:
        """Drop the history unless ``across_epochs``."""
        if not self.across_epochs:
            self.reset()

    def train(self, mode: bool = True) -> Self:
        """Mix (True), or pass batches through and remember nothing (False), as a module would."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Pass batches through; the history and the stream stay as they are."""
        return self.train(False)

    @property
    def stats(self) -> dict[str, int]:
        """Counters since construction; reading them waits for the device.

        ``dropped_too_small``: objects pasted, or trimmed by a patch, below ``min_side`` or with no pixel of
        their mask left. ``dropped_covered``: objects that show less than ``min_visible`` beside a patch.
        ``dropped_non_finite``: images kept out of the history.
        """
        return {
            "dropped_too_small": self._too_small,
            "dropped_covered": self._covered,
            "dropped_non_finite": int(self._non_finite),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all state as plain values and tensors, for ``torch.load(weights_only=True)``."""
        history = None
        if self.history is not None:
            history = {name: _plain(value) for name, value in self.history._asdict().items()}
        state = {"mixer": type(self).__name__, "history": history, "dropped": self.stats}
        return state | self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; for another rank's state see `Stream`."""
        if state.get("mixer") != type(self).__name__:
            raise ValueError(
                f"this is the state of {state.get('mixer', 'no mixer')}, it can't be loaded into "
                f"{type(self).__name__}"
            )
        self.stream.load_state_dict(state)
        history = state["history"] if self.stream.is_of_this_rank(state) else None
        self.history = None
        if history is not None:
            self.history = DenseHistory(**{name: _live(value) for name, value in history.items()})
        self._versions = None
        self._too_small = state["dropped"]["dropped_too_small"]
        self._covered = state["dropped"]["dropped_covered"]
        self._non_finite = torch.tensor(state["dropped"]["dropped_non_finite"])

    def __getstate__(self) -> dict[str, Any]:
        # A copied tensor starts counting its versions anew.
        return self.__dict__ | {"_versions": None}

    def _history_for(self, images: Any, targets: Any) -> DenseHistory | None:
        """Return the history; None where there is none that fits this batch."""
        past = self.history
        if past is None:
            return None
        check_not_written(self._versions, *_tensors(past.images), *_tensors(past.targets))
        before, now = past.images[0], images[0]
        if (
            before.shape[0] != now.shape[0]
            or before.is_floating_point() != now.is_floating_point()
            or _kind(past.targets[0]) != _kind(targets[0])
        ):
            log.warning(
                "The history does not fit this batch (channels, integer or floating pixels, objects with "
                "or without masks, or the dtype of label maps): not mixed."
            )
            return None
        return past


def _paste_into(image: Tensor, source: Tensor, box: Tensor, interpolation: Interpolation) -> None:
    """Write the shrunken source into the (1, 4) box of a (..., H, W) image."""
    source = source.to(image.device, non_blocking=True)
    paste(image[None], source[None], box, shrunk=True, interpolation=interpolation, inplace=True)


def _writable(values: Any, rows: list[int]) -> Any:
    """Return the batch with copies of the tensors in these rows; `DenseTarget` are never written to."""
    if isinstance(values, Tensor):
        return values.clone() if rows else values
    copied = list(values)
    for i in rows:
        copied[i] = values[i].clone() if isinstance(values[i], Tensor) else values[i]
    return copied


def _detached(values: Any) -> Any:
    if isinstance(values, DenseTarget):
        masks = None if values.masks is None else values.masks.detach()
        return DenseTarget(values.boxes.detach(), values.labels.detach(), masks)
    return values.detach() if isinstance(values, Tensor) else [_detached(value) for value in values]


def _plain(values: Any) -> Any:
    """Return a field of the history without named tuples, and with no tensor that is a view of more."""
    if isinstance(values, DenseTarget):
        return {name: _plain(value) for name, value in values._asdict().items()}
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return whole_storage(values) if isinstance(values, Tensor) else values


def _live(values: Any) -> Any:
    """Return the field of the history that `_plain` was given."""
    if isinstance(values, dict):
        return DenseTarget(**values)
    return [_live(value) for value in values] if isinstance(values, list) else values


def _tensors(values: Any) -> list[Tensor | None]:
    """Return the tensors of images or targets."""
    if values is None or isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in _tensors(value)]


def _kind(target: Tensor | DenseTarget) -> object:
    """Return what must be equal for one target to be pasted into another."""
    return target.dtype if isinstance(target, Tensor) else target.masks is None
