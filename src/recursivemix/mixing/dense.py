"""RecursiveMix for detection, instance and semantic segmentation: the pasted image keeps its annotations.

The previous batch, itself already mixed, is shrunk and pasted into the new one with its boxes and masks or
its label maps; what lies under the patch is cut away. Where every pixel says what it is no label has to be
fused, and the method has no loss of its own. The patch is drawn as `RecursiveMix` draws it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from .boxes import Interpolation, paste, shrink
from .dense_checks import DenseTarget, check_draw, check_images, check_targets
from .draw import Draw, box_shares, centred_boxes, draw_patch
from .mixer import in_range
from .recursive import RecursiveMix, own_storage, version_of

log = logging.getLogger(__name__)


ImagesT = TypeVar("ImagesT", bound=Tensor | list[Tensor])
TargetsT = TypeVar("TargetsT", bound=Tensor | list[Tensor] | list[DenseTarget])


class DenseBatch(NamedTuple, Generic[ImagesT, TargetsT]):
    """One mixed batch; images and targets are of the kind that came in: a tensor, or a list."""

    images: ImagesT
    """(B, C, H, W), or B times (C, H, W); dtype, device and memory format of the input."""
    targets: TargetsT
    """B `DenseTarget`, or label maps (B, H, W) or B times (H, W). An image's own objects come first, then
    the pasted ones."""
    lam: Tensor
    """(B,) float32: share of each image's pixels that are its own; 1 where nothing was pasted."""
    boxes: Tensor
    """(B, 4) int64 ``(x1, y1, x2, y2)`` pixels, end-exclusive: where the history was pasted; the whole
    image where nothing was."""
    draw: Draw
    """``mixer(..., draw=batch.draw)`` replays the batch, as long as the mixer holds the same history."""


class DenseHistory(NamedTuple):
    """What a step leaves to the next one. References, never copies; all of it detached."""

    images: Tensor | list[Tensor]
    targets: Any
    """As in `DenseBatch`."""
    valid: Tensor | None
    """(B,) bool: False for an image with a non-finite pixel, which is not used. None for integers."""


class DenseRecursiveMix:
    """``batch = mixer(images, targets)``, train on it, then ``mixer.remember(batch)``, the only write.

    Sample i gets the whole sample i of the previous batch, shrunk. A step or a sample without one is not
    mixed. Objects are dropped by what can be seen of them, so that a call with boxes waits for the device.

    Args:
        max_area: the pasted share of the image's area is drawn from U(0, max_area), before clipping at the
            border; in [0, 1].
        prob: share of the batches that are mixed, in [0, 1].
        interpolation: how images are shrunk: "nearest", "bilinear" or "area". Masks and label maps are
            always shrunk by nearest: their values are never blended.
        min_side: pixels; a pasted or partly covered object whose box has a smaller side is dropped.
        min_visible: share of its box (with masks: of its mask) that an object must show beside the patch
            of this step, or it is dropped; in [0, 1].
        across_epochs: keep the history when an epoch begins (see `start_epoch`) instead of dropping it.
        seed: of this mixer's own random stream.
        rank: of this process, part of the seed; None asks torch.distributed, then the launcher.
        sync_ranks: every rank draws the same.
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
        # The random stream, its ranks and its state are those of the mixer for classification.
        self._source = RecursiveMix(
            1,
            omega=0,
            max_area=max_area,
            prob=prob,
            interpolation=interpolation,
            seed=seed,
            rank=rank,
            sync_ranks=sync_ranks,
        )
        if not 0 <= min_side < math.inf:
            raise ValueError(f"min_side is a length in pixels and must be 0 or more, got {min_side}")
        self.min_side = min_side
        self.min_visible = in_range("min_visible", min_visible, 0, 1)
        self.across_epochs = across_epochs
        self.enabled = True
        self.training = True
        self.history: DenseHistory | None = None
        self._versions: list[int | None] | None = None
        self._too_small = 0
        self._covered = 0
        self._non_finite = torch.zeros((), dtype=torch.long)

    # -- the call -------------------------------------------------------------------------------

    def __call__(
        self, images: ImagesT, targets: TargetsT, *, draw: Draw | None = None
    ) -> DenseBatch[ImagesT, TargetsT]:
        """Mix one batch; nothing given is written to, and what is not mixed is returned itself.

        Args:
            images: (B, C, H, W), or a list of (C, H, W) of any sizes; floating or uint8.
            targets: a list of `DenseTarget`, or label maps: (B, H, W) or a list of (H, W), integers. A
                value that means "ignore" is pasted like any other.
            draw: a `Draw` to replay; None draws from this mixer's stream.

        Raises:
            ValueError: an input of another kind; the message says what came and what is allowed.
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
        lam = torch.ones(len(sizes))
        boxes = torch.tensor([[0, 0, width, height] for height, width in sizes])
        new_images: Any = images
        new_targets: Any = targets
        past = None if draw.boxes is None else self._history_for(images, targets)
        if past is not None and draw.boxes is not None:
            sound = [True] * len(past.images) if past.valid is None else past.valid.tolist()
            pairs = zip(box_areas(draw.boxes), sound, strict=False)  # neither may be the longer one
            rows = [i for i, (area, usable) in enumerate(pairs) if area > 0 and usable]
            new_images, new_targets = _writable(images, rows), _writable(targets, rows)
            for i in rows:
                box = draw.boxes[i : i + 1]
                boxes[i], lam[i] = box[0], 1 - box_shares(box, sizes[i])[0]
                _paste_into(new_images[i], past.images[i], box, self._source.interpolation)
                if isinstance(new_targets[i], Tensor):
                    _paste_into(new_targets[i], past.targets[i], box, "nearest")
                else:
                    past_size = (past.images[i].shape[-2], past.images[i].shape[-1])
                    new_targets[i] = self._join(
                        new_targets[i], past.targets[i], box[0].tolist(), sizes[i], past_size
                    )
        device = images[0].device
        lam, boxes = lam.to(device, non_blocking=True), boxes.to(device, non_blocking=True)
        return DenseBatch(new_images, new_targets, lam, boxes, draw)

    def draw(self, sizes: Sequence[tuple[int, int]]) -> Draw:
        """Draw one patch for a batch of images of these (H, W); its boxes are (B, 4), one for each size."""
        source = self._source
        area, place = draw_patch(1, 2, source.max_area, source.prob, source._stream())
        return Draw(boxes=torch.cat([centred_boxes(area, place, size) for size in sizes]))

    def _join(
        self,
        current: DenseTarget,
        past: DenseTarget,
        patch: list[int],
        size: tuple[int, int],
        past_size: tuple[int, int],
    ) -> DenseTarget:
        """What is left of the current objects, then the pasted ones; counts what is dropped."""
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
            self.reset()  # what is old by the time mixing starts again is no history
        if not (self.enabled and self.training):
            return
        images = _detached(batch.images)
        valid = None
        if images[0].is_floating_point():
            wide = torch.float64 if images[0].dtype == torch.float64 else torch.float32
            # A sum is finite exactly if its terms are (and it does not overflow).
            valid = torch.isfinite(torch.stack([image.sum(dtype=wide) for image in images]))
            self._non_finite = self._non_finite + (~valid).sum()
        self.history = DenseHistory(images, _detached(batch.targets), valid)
        self._versions = _versions(images)

    def reset(self) -> None:
        """Forget the history; the random stream goes on."""
        self.history = None

    def start_epoch(self) -> None:
        """Drop the history unless ``across_epochs``."""
        if not self.across_epochs:
            self.reset()

    def train(self, mode: bool = True) -> Self:
        """Mix (True) or pass batches through and remember nothing (False), as a module would."""
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
        """Everything that must last: plain values and tensors, for ``torch.load(weights_only=True)``."""
        history = (
            None if self.history is None else {k: _plain(v) for k, v in self.history._asdict().items()}
        )
        source = self._source.state_dict() | {"mixer": type(self).__name__}
        return source | {"history": history, "dropped": self.stats}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; of another rank's state see `Mixer`."""
        if state.get("mixer") != type(self).__name__:
            raise ValueError(
                f"this is the state of {state.get('mixer', 'no mixer')}, it can't be loaded into "
                f"{type(self).__name__}"
            )
        name = type(self._source).__name__
        self._source.load_state_dict(state | {"mixer": name, "history": None, "dropped": 0})
        history = state["history"] if self._source._is_own(state) else None
        self.history = (
            None if history is None else DenseHistory(**{k: _live(v) for k, v in history.items()})
        )
        self._versions = None
        self._too_small = state["dropped"]["dropped_too_small"]
        self._covered = state["dropped"]["dropped_covered"]
        self._non_finite = torch.tensor(state["dropped"]["dropped_non_finite"])

    def __getstate__(self) -> dict[str, Any]:
        # A copied tensor starts counting anew.
        return self.__dict__ | {"_versions": None}

    def _history_for(self, images: Any, targets: Any) -> DenseHistory | None:
        """The history; None where there is none that fits this batch."""
        past = self.history
        if past is None:
            return None
        if self._versions is not None and self._versions != _versions(past.images):
            raise ValueError(
                "the last step's images were written over, and they are the history: let the loader make "
                "new ones, or give the mixer copies"
            )
        old, new = past.images[0], images[0]
        if (
            old.shape[0] != new.shape[0]
            or old.is_floating_point() != new.is_floating_point()
            or _kind(past.targets[0]) != _kind(targets[0])
        ):
            log.warning(
                "The history does not fit this batch (channels, integer or floating pixels, objects with "
                "or without masks, or the dtype of label maps): not mixed."
            )
            return None
        return past


def uncovered(
    target: DenseTarget, patch: Sequence[int], min_visible: float, min_side: float
) -> tuple[int, int, DenseTarget]:
    """What a patch leaves of the objects under it.

    A box is trimmed to what bounds its visible part: box minus patch, or with masks the mask's pixels. An
    object that the patch does not touch stays as it is.

    Args:
        patch: ``(x1, y1, x2, y2)`` pixels, not empty.

    Returns:
        How many objects were dropped because they show less than ``min_visible``, how many because a side
        of what they show is below ``min_side``, and the others.
    """
    boxes, masks = target.boxes, target.masks
    x1, y1, x2, y2 = patch
    if masks is None:
        first, last = boxes[:, :2], boxes[:, 2:]
        near, far = boxes.new_tensor([x1, y1]), boxes.new_tensor([x2, y2])
        shared = (torch.minimum(last, far) - torch.maximum(first, near)).clamp(min=0)  # (N, 2)
        touched = (shared > 0).all(1)
        visible = 1 - shared.prod(1) / (last - first).prod(1)
        # Only a patch that spans the box in one dimension takes something off its ends in the other.
        from_near, to_far = near <= first, far >= last
        spans = (from_near & to_far).flip(1)
        start = torch.where(spans & from_near, torch.maximum(first, far), first)
        end = torch.where(spans & to_far, torch.minimum(last, near), last)
        trimmed = torch.cat([start, end], 1)
    else:
        under = masks[:, y1:y2, x1:x2].flatten(1).sum(1)
        touched = under > 0
        visible = 1 - under / masks.flatten(1).sum(1).clamp(min=1)
        masks = masks.clone()
        masks[:, y1:y2, x1:x2] = False
        trimmed = mask_boxes(masks).to(boxes.dtype)
    hidden = touched & ((visible < min_visible) | (visible <= 0))
    small = touched & ~hidden & ~_sides_from(trimmed, min_side)
    keep = ~(hidden | small)
    left = DenseTarget(
        torch.where(touched[:, None], trimmed, boxes)[keep],
        target.labels[keep],
        None if masks is None else masks[keep],
    )
    return int(hidden.sum()), int(small.sum()), left


def shrunk_into(
    target: DenseTarget,
    source_size: tuple[int, int],
    patch: Sequence[int],
    size: tuple[int, int],
    min_side: float,
) -> tuple[int, DenseTarget]:
    """The objects of an image of ``source_size`` that is shrunk into a patch of one of ``size``, (H, W).

    Boxes are scaled; with masks they are what bounds the shrunken mask.

    Returns:
        How many were dropped (a side below ``min_side``, or no pixel of the mask left), and the others.
    """
    x1, y1, x2, y2 = patch
    scale = ((x2 - x1) / source_size[1], (y2 - y1) / source_size[0])
    boxes = target.boxes * target.boxes.new_tensor(scale * 2) + target.boxes.new_tensor([x1, y1, x1, y1])
    # Rounding must not carry a box over the patch's edge.
    boxes = boxes.maximum(boxes.new_tensor([x1, y1, x1, y1])).minimum(boxes.new_tensor([x2, y2, x2, y2]))
    labels, masks = target.labels, target.masks
    if masks is None:
        keep = _sides_from(boxes, min_side)
        return int((~keep).sum()), DenseTarget(boxes[keep], labels[keep])
    small = shrink(masks[None], (y2 - y1, x2 - x1), "nearest")[0]
    masks = masks.new_zeros(len(small), *size)
    masks[:, y1:y2, x1:x2] = small
    # What is thin is gone from the shrunken mask, and the box must not tell of it.
    boxes = mask_boxes(masks).to(boxes.dtype)
    keep = small.flatten(1).any(1) & _sides_from(boxes, min_side)
    return int((~keep).sum()), DenseTarget(boxes[keep], labels[keep], masks[keep])


def mask_boxes(masks: Tensor) -> Tensor:
    """(N, 4) int64 tight ``(x1, y1, x2, y2)`` of (N, H, W) bool masks; of an empty mask the whole image."""
    edges = []
    for along in (masks.any(1), masks.any(2)):  # (N, W), (N, H)
        seen = along.to(torch.uint8)  # argmax: the first of the largest
        edges.append((seen.argmax(1), seen.shape[1] - seen.flip(1).argmax(1)))
    return torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], 1)


def box_areas(boxes: Tensor) -> list[int]:
    """Pixels in each of (N, 4) int64 boxes."""
    areas: list[int] = (boxes[:, 2:] - boxes[:, :2]).prod(1).tolist()
    return areas


def _sides_from(boxes: Tensor, min_side: float) -> Tensor:
    """(N,) bool: both sides of the box are at least this long."""
    return (boxes[:, 2:] - boxes[:, :2] >= min_side).all(1)


def _paste_into(image: Tensor, source: Tensor, box: Tensor, interpolation: Interpolation) -> None:
    """Write the shrunken source into the (1, 4) box of a (..., H, W) image."""
    source = source.to(image.device, non_blocking=True)
    paste(image[None], source[None], box, shrunk=True, interpolation=interpolation, inplace=True)


def _writable(values: Any, rows: list[int]) -> Any:
    """The batch with tensors of its own in these rows; `DenseTarget` are replaced, never written to."""
    if isinstance(values, Tensor):
        return values.clone() if rows else values
    own = list(values)
    for i in rows:
        own[i] = values[i].clone() if isinstance(values[i], Tensor) else values[i]
    return own


def _detached(values: Any) -> Any:
    if isinstance(values, DenseTarget):
        masks = None if values.masks is None else values.masks.detach()
        return DenseTarget(values.boxes.detach(), values.labels.detach(), masks)
    return values.detach() if isinstance(values, Tensor) else [_detached(value) for value in values]


def _plain(values: Any) -> Any:
    """A field of the history without named tuples, and with no tensor that is a view of more."""
    if isinstance(values, DenseTarget):
        return {name: _plain(value) for name, value in values._asdict().items()}
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return own_storage(values) if isinstance(values, Tensor) else values


def _live(values: Any) -> Any:
    """The opposite of `_plain`."""
    if isinstance(values, dict):
        return DenseTarget(**values)
    return [_live(value) for value in values] if isinstance(values, list) else values


def _versions(images: Tensor | list[Tensor]) -> list[int | None]:
    return [version_of(image) for image in ([images] if isinstance(images, Tensor) else images)]


def _kind(target: Tensor | DenseTarget) -> object:
    """Targets of different kinds are not pasted into one another."""
    return target.dtype if isinstance(target, Tensor) else target.masks is None
