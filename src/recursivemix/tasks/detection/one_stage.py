"""Dense one-stage detectors with one square anchor a location: ATSS and GFL on the same parts.

ATSS: Zhang et al., arXiv 1912.02424. GFL: Li et al., arXiv 2006.04388. Both take and give what
torchvision's detectors do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms

from .assign import atss_assign
from .losses import (
    centerness,
    distribution_focal_loss,
    focal_loss,
    giou_loss,
    iou,
    quality_focal_loss,
)

ANCHOR_SIDE = 8
"""Of an anchor, in strides of its level (arXiv 1912.02424, section 3.1)."""
CODE_SCALE = (0.1, 0.1, 0.2, 0.2)
"""Of ATSS's box code: shifts in tenths of the anchor, sides in fifths of a logarithm."""
MOST_GROWTH = math.log(1000 / 16)
"""Of a side's logarithm: no anchor is an object of more than 62 times its size."""
BINS = 16
"""GFL's largest distance, in strides."""
PRIOR = 0.01
"""Probability that a location sees an object, before any training."""


class Tower(nn.Sequential):
    """Convolutions of 3x3 with group norm and ReLU; the same for every level."""

    def __init__(self, channels: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                # 32 groups as in the papers, but of four channels at least: a level may be of one pixel.
                nn.GroupNorm(math.gcd(32, max(1, channels // 4)), channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Matched:
    """The locations of a batch that are trained on an object, P of them, and what they are to say.

    Built once a step from anchors and objects; gradients never come here.
    """

    def __init__(
        self, anchors: Sequence[Tensor], levels: Sequence[int], targets: Sequence[dict[str, Tensor]]
    ) -> None:
        owners = [
            atss_assign(own, levels, target["boxes"]) for own, target in zip(anchors, targets, strict=True)
        ]
        owner = torch.stack(owners)  # (B, A)
        self.image, self.location = (owner >= 0).nonzero(as_tuple=True)
        """(P,) each: which image, and which of its A locations."""
        object_index = owner[self.image, self.location]
        first = torch.tensor([0, *(len(t["boxes"]) for t in targets)], device=owner.device).cumsum(0)
        place = first[self.image] + object_index
        self.boxes = torch.cat([t["boxes"] for t in targets])[place]
        """(P, 4) of their objects."""
        self.labels = torch.cat([t["labels"] for t in targets])[place]
        """(P,)"""
        self.anchors = torch.stack(list(anchors))[self.image, self.location]
        """(P, 4)"""
        self.points = (self.anchors[:, :2] + self.anchors[:, 2:]) / 2
        """(P, 2)"""

    def __len__(self) -> int:
        return len(self.image)


class OneStageDetector(nn.Module, ABC):
    """Backbone, pyramid and a head that is shared by all levels; see `ATSS` and `GFL`.

    Args:
        pyramid: images to an ordered dictionary of (B, C, h, w); says ``out_channels`` and ``strides``.
        num_classes: K.
        transform: resizes and normalises images and boxes, and takes boxes back.
        depth: convolutions in each of the head's two towers; 4 in the papers.
        score_threshold, nms_threshold, candidates, detections: what is given back: boxes of at least that
            score, of each level the best ``candidates``, after suppression within each class, at most
            ``detections`` an image.
    """

    box_outputs: int
    """Numbers that a location says of its box."""

    def __init__(
        self,
        pyramid: nn.Module,
        num_classes: int,
        transform: GeneralizedRCNNTransform,
        *,
        depth: int = 4,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        candidates: int = 1000,
        detections: int = 100,
    ) -> None:
        super().__init__()
        channels: Any = pyramid.out_channels
        strides: Any = pyramid.strides
        self.backbone = pyramid
        self.num_classes = num_classes
        self.transform = transform
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.candidates = candidates
        self.detections = detections
        self.anchors = AnchorGenerator(
            sizes=tuple((ANCHOR_SIDE * stride,) for stride in strides),
            aspect_ratios=((1.0,),) * len(strides),
        )
        self.class_tower = Tower(channels, depth)
        self.box_tower = Tower(channels, depth)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_code = nn.Conv2d(channels, self.box_outputs, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides)))
        """Of the box code, one a level: levels differ in nothing else."""
        for module in self.head_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.class_logits.bias is not None
        nn.init.constant_(self.class_logits.bias, -math.log((1 - PRIOR) / PRIOR))

    def head_modules(self) -> list[nn.Module]:
        """The convolutions of the head, and what is around them."""
        parts = [self.class_tower, self.box_tower, self.class_logits, self.box_code]
        return [module for part in parts for module in part.modules()]

    # -- what a detector defines ----------------------------------------------------------------

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor], strides: Tensor, matched: Matched) -> dict[str, Tensor]:
        """Losses of a batch, each a number.

        Args:
            outputs: ``classes`` (B, A, K), ``boxes`` (B, A, `box_outputs`) and `extra_outputs`, float32.
            strides: (A,) of each location's level.
            matched: what is to be learnt where.
        """

    @abstractmethod
    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """(B, A, K) in [0, 1]: by which detections are chosen and sorted."""

    @abstractmethod
    def decode(self, code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """(P, 4) boxes of (P, `box_outputs`) codes at (P, 4) anchors on levels of (P,) strides."""

    def extra_outputs(self, boxes: Tensor) -> dict[str, Tensor]:
        """Of one level, from the box tower's (B, C, h, w): maps by name."""
        return {}

    # -- both ways ------------------------------------------------------------------------------

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Args:
            images: (3, H, W) each, of any sizes, in [0, 1].
            targets: of each image ``boxes`` (N, 4) in its pixels and ``labels`` (N,); for training.

        Returns:
            In training ``{name: loss}``; else of each image ``boxes`` (D, 4), ``scores`` (D,) and
            ``labels`` (D,), the best first.
        """
        if self.training and targets is None:
            raise ValueError("training needs targets: of each image its boxes and labels")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        # The transform writes boxes into the dictionaries it gets.
        given = None if targets is None else [dict(target) for target in targets]
        batch, moved = self.transform(list(images), given)
        features = list(self.backbone(batch.tensors).values())
        outputs, levels = self.head(features)
        anchors = self.anchors(ImageList(batch.tensors, batch.image_sizes), features)
        strides = torch.cat(
            [
                torch.full((n,), float(s), device=batch.tensors.device)
                for n, s in zip(levels, self._strides(), strict=True)
            ]
        )
        if self.training:
            assert moved is not None
            return self.losses(outputs, strides, Matched(anchors, levels, moved))
        scores = self.scores(outputs)
        found = [
            self.detect(scores[i], outputs["boxes"][i], anchors[i], strides, levels, size)
            for i, size in enumerate(batch.image_sizes)
        ]
        result: list[dict[str, Tensor]] = self.transform.postprocess(found, batch.image_sizes, sizes)
        return result

    def _strides(self) -> Sequence[int]:
        strides: Any = self.backbone.strides
        return list(strides)

    def head(self, features: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[int]]:
        """All locations' outputs, (B, A, ...) float32 by name, level by level; and A of each level."""
        collected: dict[str, list[Tensor]] = {}
        levels = []
        for scale, feature in zip(self.scales, features, strict=True):
            boxes = self.box_tower(feature)
            maps = {"classes": self.class_logits(self.class_tower(feature))}
            maps |= {"boxes": self.box_code(boxes) * scale} | self.extra_outputs(boxes)
            for name, values in maps.items():
                collected.setdefault(name, []).append(values.flatten(2).transpose(1, 2))
            levels.append(feature.shape[-2] * feature.shape[-1])
        return {name: torch.cat(values, 1).float() for name, values in collected.items()}, levels

    def detect(
        self,
        scores: Tensor,
        code: Tensor,
        anchors: Tensor,
        strides: Tensor,
        levels: Sequence[int],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The detections of one image, whose (H, W) before padding is ``size``."""
        kept = []
        first = 0
        for length in levels:
            own = scores[first : first + length].flatten()
            above = (own > self.score_threshold).nonzero()[:, 0]
            best = above[own[above].topk(min(self.candidates, len(above))).indices]
            kept.append(best + first * self.num_classes)
            first += length
        index = torch.cat(kept)
        at, labels = index // self.num_classes, index % self.num_classes
        values = scores.flatten()[index]
        boxes = self.decode(code[at], anchors[at], strides[at])
        limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        chosen = batched_nms(boxes, values, labels, self.nms_threshold)[: self.detections]
        return {"boxes": boxes[chosen], "scores": values[chosen], "labels": labels[chosen]}


class ATSS(OneStageDetector):
    """ATSS with centerness: focal loss, GIoU loss weighted 2, binary cross-entropy of centerness."""

    box_outputs = 4

    def __init__(self, pyramid: nn.Module, num_classes: int, transform: Any, **others: Any) -> None:
        super().__init__(pyramid, num_classes, transform, **others)
        channels: Any = pyramid.out_channels
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.normal_(self.centerness.weight, std=0.01)
        assert self.centerness.bias is not None
        nn.init.zeros_(self.centerness.bias)

    def extra_outputs(self, boxes: Tensor) -> dict[str, Tensor]:
        return {"centerness": self.centerness(boxes)}

    def losses(self, outputs: dict[str, Tensor], strides: Tensor, matched: Matched) -> dict[str, Tensor]:
        image, location = matched.image, matched.location
        targets = torch.zeros_like(outputs["classes"])
        targets[image, location, matched.labels] = 1
        boxes = self.decode(outputs["boxes"][image, location], matched.anchors, strides[location])
        central = centerness(matched.points, matched.boxes)
        logits = outputs["centerness"][image, location, 0]
        count, weight = mean_over_ranks(
            torch.stack([central.new_tensor(float(len(matched))), central.sum()])
        )
        count = count.clamp(min=1)
        agreement = nn.functional.binary_cross_entropy_with_logits(logits, central, reduction="sum")
        return {
            "classes": focal_loss(outputs["classes"], targets).sum() / count,
            "boxes": 2 * (giou_loss(boxes, matched.boxes) * central).sum() / weight.clamp(min=1e-6),
            "centerness": agreement / count,
        }

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        return outputs["classes"].sigmoid() * outputs["centerness"].sigmoid()

    def decode(self, code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        scale = code.new_tensor(CODE_SCALE)
        sides = anchors[:, 2:] - anchors[:, :2]
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2 + code[:, :2] * scale[:2] * sides
        half = sides * (code[:, 2:] * scale[2:]).clamp(max=MOST_GROWTH).exp() / 2
        return torch.cat([centres - half, centres + half], 1)


class GFL(OneStageDetector):
    """Generalised focal loss: scores say how good the box is, each side's distance is a distribution."""

    box_outputs = 4 * (BINS + 1)

    def losses(self, outputs: dict[str, Tensor], strides: Tensor, matched: Matched) -> dict[str, Tensor]:
        image, location = matched.image, matched.location
        stride = strides[location]
        code = outputs["boxes"][image, location]
        boxes = self.decode(code, matched.anchors, stride)
        quality = torch.zeros_like(outputs["classes"])
        quality[image, location, matched.labels] = iou(boxes.detach(), matched.boxes)
        # Boxes count as much as their location is sure of a class.
        sure = outputs["classes"].detach().sigmoid()[image, location].amax(1)
        points = matched.points.repeat(1, 2)
        sign = points.new_tensor([1.0, 1.0, -1.0, -1.0])
        distances = (points - matched.boxes) * sign / stride[:, None]
        bins = distribution_focal_loss(code.view(-1, 4, BINS + 1), distances.clamp(0, BINS - 0.1))
        count, weight = mean_over_ranks(torch.stack([sure.new_tensor(float(len(matched))), sure.sum()]))
        weight = weight.clamp(min=1e-6)
        return {
            "classes": quality_focal_loss(outputs["classes"], quality).sum() / count.clamp(min=1),
            "boxes": 2 * (giou_loss(boxes, matched.boxes) * sure).sum() / weight,
            "distances": 0.25 * (bins.mean(1) * sure).sum() / weight,
        }

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        return outputs["classes"].sigmoid()

    def decode(self, code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        bins = torch.arange(BINS + 1, dtype=code.dtype, device=code.device)
        distances = (code.view(-1, 4, BINS + 1).softmax(2) @ bins) * strides[:, None]  # (P, 4)
        points = (anchors[:, :2] + anchors[:, 2:]) / 2
        return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Numbers averaged over the processes that train together, so that their losses weigh alike."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values
