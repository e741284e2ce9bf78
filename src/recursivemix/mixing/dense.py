"""RecursiveMix inside detection and segmentation: the memory with its boxes, masks and label maps.

The previous batch, itself already mixed, is shrunk and pasted into the new one, by the same draw as in
classification. Not in the paper. There are no labels to fuse: every pasted object brings its own box.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .boxes import Interpolation, paste
from .draw import box_shares, centred_boxes, patch_draw, process_rank, seeded_generator
from .mixer import in_range, known_interpolation

log = logging.getLogger(__name__)


class DenseTarget(NamedTuple):
    """The objects of one image, N of them."""

    boxes: Tensor
    """(N, 4) floating ``(x1, y1, x2, y2)`` pixels of the image."""
    labels: Tensor
    """(N,) int64."""
    masks: Tensor | None = None
    """(N, H, W) bool."""


class DenseBatch(NamedTuple):
    """A mixed batch; images and targets are lists or stacked, as they came in."""

    images: Any
    """B images of (C, H, W)."""
    targets: Any
    """B of `DenseTarget`, or B label maps of (H, W)."""
    lam: Tensor
    """(B,) float32: share of each image's pixels that are its own."""
    boxes: Tensor
    """(B, 4) int64 ``(x1, y1, x2, y2)``: where was pasted; the whole image where nothing was."""


class DenseHistory(NamedTuple):
    """What a step leaves to the next one: references, never copies."""

    images: list[Tensor]
    targets: list[Any]
    """As in `DenseBatch`."""


class DenseRecursiveMix:
    """Call it, train, then `remember`: the call reads the history and `remember` is its only write.

    One box is drawn a batch, as a share of the area and a relative place, so images of different sizes get
    the same patch in their own pixels. Sample i is paired with sample i of the step before; one that has no
    partner, or one with a non-finite pixel, is not mixed.

    Args:
        max_area: the pasted share of an image's area is drawn from U(0, max_area), before clipping at the
            border; in [0, 1].
        prob: share of the batches that are mixed, in [0, 1].
        interpolation: how images are shrunk: "nearest", "bilinear" or "area". Masks and label maps are
            always picked (nearest), never blended.
        min_side: pixels that a pasted object's box must keep on each side, and a covered object's box too;
            smaller ones are dropped.
        min_visible: share of an object that the patch must leave uncovered, of its mask or else of its
            box, in [0, 1]; with less it is dropped.
        across_epochs: keep the history when an epoch begins (see `start_epoch`) instead of dropping it.
        seed: of this mixer's own random stream.
        rank: of this process, part of the seed; None asks torch.distributed, then the launcher.
        sync_ranks: every rank draws the same.

    Raises:
        ValueError: a value out of its range, or targets that do not belong to their images.
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
        self.max_area = in_range("max_area", max_area, 0, 1)
        self.prob = in_range("prob", prob, 0, 1)
        self.interpolation = known_interpolation(interpolation)
        if not 0 <= min_side < math.inf:
            raise ValueError(f"min_side is in pixels and must be 0 or more, got {min_side}")
        self.min_side = min_side
        self.min_visible = in_range("min_visible", min_visible, 0, 1)
        self.across_epochs = across_epochs
        self.seed = seed
        self.rank = rank
        self.sync_ranks = sync_ranks
        self.enabled = True
        self.training = True
        self.history: DenseHistory | None = None
        self._generator: torch.Generator | None = None
        self._dropped = {"too_small": 0, "too_covered": 0}

    def __call__(self, images: Any, targets: Any) -> DenseBatch:
        """Mix a batch with the history; what came in stays as it is.

        Args:
            images: B images of (C, H, W), stacked or in a list; floating or uint8.
            targets: B of `DenseTarget`, or B label maps of (H, W), stacked or in a list.
        """
        count = len(images)
        check(images, targets)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        whole = torch.tensor([[0, 0, width, height] for height, width in sizes]).view(-1, 4)
        plain = DenseBatch(images, targets, torch.ones(count), whole)
        if not (self.enabled and self.training):
            return plain
        area, place = patch_draw(1, 2, self.max_area, self.prob, self._stream())
        past = self.history
        if past is None:
            return plain
        if count and past.targets and isinstance(past.targets[0], Tensor) != isinstance(targets[0], Tensor):
            log.warning("The history has other targets (objects, label maps) than this batch: not mixed.")
            return plain
        mixed: list[tuple[Tensor, Any]] = []
        boxes, lam = whole.clone(), torch.ones(count)
        for i, (image, target) in enumerate(zip(images, targets, strict=True)):
            box = centred_boxes(area, place, sizes[i])
            share = float(box_shares(box, sizes[i]))
            if i >= len(past.images) or share == 0 or not _fits(image, target, past, i):
                mixed.append((image, target))
                continue
            source, its_target = past.images[i], past.targets[i]
            pixels = self._paste(image[None], source[None], box, self.interpolation)[0]
            if isinstance(target, Tensor):
                assert isinstance(its_target, Tensor)
                moved: Any = self._paste(target[None, None], its_target[None, None], box, "nearest")[0, 0]
            else:
                assert isinstance(its_target, DenseTarget)
                moved = self._merge(target, its_target, box[0], source.shape[-2:], sizes[i])
            mixed.append((pixels, moved))
            boxes[i], lam[i] = box[0], 1 - share
        found_images, found_targets = [image for image, _ in mixed], [target for _, target in mixed]
        return DenseBatch(
            torch.stack(found_images) if isinstance(images, Tensor) else found_images,
            torch.stack(found_targets) if isinstance(targets, Tensor) else found_targets,
            lam,
            boxes,
        )

    def remember(self, batch: DenseBatch) -> None:
        """Make this step the history of the next one; nothing is copied."""
        if not self.enabled:
            self.reset()  # what is old by the time mixing starts again is no history
        if not (self.enabled and self.training):
            return
        self.history = DenseHistory([image.detach() for image in batch.images], list(batch.targets))

    def reset(self) -> None:
        """Forget the history; the random stream goes on."""
        self.history = None

    def start_epoch(self) -> None:
        """Drop the history, as in classification, unless ``across_epochs``."""
        if not self.across_epochs:
            self.reset()

    @property
    def stats(self) -> dict[str, int]:
        """How many objects were dropped: ``too_small`` and ``too_covered``."""
        return dict(self._dropped)

    def state_dict(self) -> dict[str, Any]:
        """Stream, history and counts: tensors and plain values."""
        history = None
        if self.history is not None:
            targets = [t if isinstance(t, Tensor) else list(t) for t in self.history.targets]
            history = {"images": list(self.history.images), "targets": targets}
        return {"generator": self._stream().get_state(), "history": history, "dropped": dict(self._dropped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._stream().set_state(state["generator"])
        self._dropped = dict(state["dropped"])
        held = state["history"]
        self.history = None
        if held is not None:
            targets = [t if isinstance(t, Tensor) else DenseTarget(*t) for t in held["targets"]]
            self.history = DenseHistory(list(held["images"]), targets)

    # -- one image ------------------------------------------------------------------------------

    def _stream(self) -> torch.Generator:
        if self._generator is None:
            rank = process_rank() if self.rank is None else self.rank
            self._generator = seeded_generator(self.seed, 0 if self.sync_ranks else rank)
        return self._generator

    @staticmethod
    def _paste(images: Tensor, sources: Tensor, box: Tensor, mode: Interpolation) -> Tensor:
        sources = sources.to(images.device)
        return paste(images, sources, box, shrunk=True, interpolation=mode)

    def _merge(
        self,
        own: DenseTarget,
        past: DenseTarget,
        box: Tensor,
        past_size: Sequence[int],
        size: Sequence[int],
    ) -> DenseTarget:
        """The objects of an image after another was shrunk into a box of it: its own, then the pasted."""
        kept = self._uncovered(own, box)
        pasted = self._shrunken(past, box, past_size, size, own.boxes.device)
        masks = None
        if kept.masks is not None and pasted.masks is not None:
            masks = torch.cat([kept.masks, pasted.masks])
        return DenseTarget(
            torch.cat([kept.boxes, pasted.boxes.to(kept.boxes.dtype)]),
            torch.cat([kept.labels, pasted.labels]),
            masks,
        )

    def _uncovered(self, own: DenseTarget, box: Tensor) -> DenseTarget:
        """What a patch leaves of an image's objects."""
        boxes = own.boxes
        patch = box.to(boxes.device)
        touched = overlap_area(boxes, patch) > 0
        if own.masks is None:
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            visible = 1 - overlap_area(boxes, patch) / area.clamp(min=torch.finfo(boxes.dtype).tiny)
            trimmed, masks = outside_of(boxes, patch), None
        else:
            masks = own.masks.clone()
            x1, y1, x2, y2 = box.tolist()
            masks[:, y1:y2, x1:x2] = False
            left, before = masks.sum((1, 2)), own.masks.sum((1, 2))
            touched = left < before
            visible = left / before.clamp(min=1)
            trimmed = boxes_of(masks).to(boxes.dtype)
        trimmed = torch.where(touched[:, None], trimmed, boxes)
        seen = ~touched | (visible >= self.min_visible)
        large = ~touched | ((trimmed[:, 2:] - trimmed[:, :2]) >= self.min_side).all(1)
        self._dropped["too_covered"] += int((~seen).sum())
        self._dropped["too_small"] += int((seen & ~large).sum())
        keep = seen & large
        return DenseTarget(trimmed[keep], own.labels[keep], None if masks is None else masks[keep])

    def _shrunken(
        self,
        past: DenseTarget,
        box: Tensor,
        past_size: Sequence[int],
        size: Sequence[int],
        device: torch.device,
    ) -> DenseTarget:
        """The objects of the history, where they are after their image was shrunk into a box."""
        x1, y1, x2, y2 = box.tolist()
        scale = torch.tensor([(x2 - x1) / past_size[1], (y2 - y1) / past_size[0]] * 2, device=device)
        boxes = past.boxes.to(device) * scale + torch.tensor([x1, y1] * 2, device=device)
        labels, masks = past.labels.to(device), past.masks
        large = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_side).all(1)
        if masks is not None:
            canvas = torch.zeros(1, len(masks), *size, dtype=torch.uint8, device=device)
            small = masks.to(device, torch.uint8)[None]
            masks = paste(canvas, small, box[None], shrunk=True, interpolation="nearest")[0].bool()
            large = large & masks.flatten(1).any(1)
            masks = masks[large]
        self._dropped["too_small"] += int((~large).sum())
        return DenseTarget(boxes[large], labels[large], masks)


def overlap_area(boxes: Tensor, patch: Tensor) -> Tensor:
    """(N,) area that each (N, 4) box shares with a (4,) patch."""
    sides = torch.minimum(boxes[:, 2:], patch[2:]) - torch.maximum(boxes[:, :2], patch[:2])
    return sides.clamp(min=0).prod(1)


def outside_of(boxes: Tensor, patch: Tensor) -> Tensor:
    """(N, 4): the smallest box around what lies outside of a (4,) patch; without area where nothing does.

    A patch takes something off a box only where it spans it from side to side.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    left, top, right, bottom = patch.to(boxes.dtype)
    wide = (left <= x1) & (right >= x2) & (top < y2) & (bottom > y1)
    high = (top <= y1) & (bottom >= y2) & (left < x2) & (right > x1)
    new_y1 = torch.where(wide & (top <= y1), torch.minimum(bottom, y2), y1)
    new_y2 = torch.where(wide & (bottom >= y2), torch.maximum(top, new_y1), y2)
    new_x1 = torch.where(high & (left <= x1), torch.minimum(right, x2), x1)
    new_x2 = torch.where(high & (right >= x2), torch.maximum(left, new_x1), x2)
    return torch.stack([new_x1, new_y1, new_x2, new_y2], 1)


def boxes_of(masks: Tensor) -> Tensor:
    """(N, 4) int64: the smallest box around each (N, H, W) mask; zeros where it is empty."""
    if len(masks) == 0:
        return torch.zeros(0, 4, dtype=torch.long, device=masks.device)
    rows, columns = masks.any(2), masks.any(1)  # (N, H), (N, W)
    ends = []
    for line in (columns, rows):
        first = line.int().argmax(1)
        last = line.shape[1] - line.flip(1).int().argmax(1)
        ends.append((first, torch.where(line.any(1), last, first)))
    (x1, x2), (y1, y2) = ends
    return torch.stack([x1, y1, x2, y2], 1)


def check(images: Any, targets: Any) -> None:
    """Raise ValueError for images and targets that do not belong together."""
    if len(images) != len(targets):
        raise ValueError(f"there are {len(images)} images and {len(targets)} targets: give one for each")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        if image.dim() != 3 or not (image.is_floating_point() or image.dtype == torch.uint8):
            raise ValueError(
                f"image {i} must be (C, H, W) of floats or uint8, got {tuple(image.shape)} of {image.dtype}"
            )
        size = tuple(image.shape[-2:])
        if isinstance(target, Tensor):
            if tuple(target.shape) != size or target.is_floating_point():
                raise ValueError(
                    f"label map {i} must be integers of {size}, as its image, got {tuple(target.shape)} of "
                    f"{target.dtype}"
                )
            continue
        if not isinstance(target, DenseTarget):
            raise ValueError(
                f"target {i} must be a DenseTarget or a label map, got {type(target).__name__}"
            )
        if target.boxes.dim() != 2 or target.boxes.shape[1] != 4 or len(target.labels) != len(target.boxes):
            raise ValueError(
                f"target {i} must have boxes (N, 4) and labels (N,), got {tuple(target.boxes.shape)} and "
                f"{tuple(target.labels.shape)}"
            )
        if target.masks is not None and tuple(target.masks.shape) != (len(target.boxes), *size):
            raise ValueError(
                f"target {i} must have masks of {(len(target.boxes), *size)}, got "
                f"{tuple(target.masks.shape)}"
            )


def _fits(image: Tensor, target: Any, past: DenseHistory, index: int) -> bool:
    """Whether the history's sample can be pasted into this one."""
    source, its_target = past.images[index], past.targets[index]
    same_kind = (
        image.shape[0] == source.shape[0] and image.is_floating_point() == source.is_floating_point()
    )
    if isinstance(target, DenseTarget) and isinstance(its_target, DenseTarget):
        same_kind = same_kind and (target.masks is None) == (its_target.masks is None)
    if not same_kind:
        log.warning("The history does not fit this batch (channels, integer pixels, masks): not mixed.")
        return False
    return not source.is_floating_point() or bool(torch.isfinite(source.sum()))
