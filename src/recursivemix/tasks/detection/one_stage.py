"""One-stage detectors with one square anchor per location: what ATSS and GFL share.

They have the call of torchvision's detectors. A detector of this kind is a subclass of `OneStageDetector`
that defines how a box is encoded, its losses and its scores.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms

from recursivemix.tasks.backbone import LoadedBackbone

from .assign import atss_assign
from .create import DetectorOptions
from .pyramid import Pyramid

ANCHOR_SIDE = 8
"""Side of an anchor in strides of its level (arXiv 1912.02424, section 3.1)."""
PRIOR = 0.01
"""Initial probability of an object at a location (arXiv 1708.02002, section 3.3)."""
SCORE_THRESHOLD = 0.05
"""Lowest score of a detection."""
NMS_THRESHOLD = 0.6
"""IoU above which the lower of two detections of a class is suppressed."""
CANDIDATES = 1000
"""Detections per level before suppression."""
DETECTIONS = 100
"""Detections per image after suppression."""


class Locations(NamedTuple):
    """The A locations of an image at which a detector predicts, level by level."""

    anchors: Tensor
    """(A, 4) ``(x1, y1, x2, y2)`` in pixels."""
    strides: Tensor
    """(A,) stride of each location's level."""
    levels: list[int]
    """Number of locations per level."""


class Matches(NamedTuple):
    """The P locations of a batch that are trained on an object, and their objects."""

    image: Tensor
    """(P,) index of the image."""
    location: Tensor
    """(P,) index of the location."""
    anchors: Tensor
    """(P, 4)"""
    strides: Tensor
    """(P,)"""
    boxes: Tensor
    """(P, 4) box of the object."""
    labels: Tensor
    """(P,) class of the object."""

    @property
    def points(self) -> Tensor:
        """(P, 2) centers of the anchors."""
        return (self.anchors[:, :2] + self.anchors[:, 2:]) / 2


def match(locations: Locations, targets: Sequence[dict[str, Tensor]]) -> Matches:
    """Assign objects to locations.

    Args:
        locations: the same for every image of the batch.
        targets: for each image ``boxes`` (N, 4) and ``labels`` (N,).
    """
    owners = [atss_assign(locations.anchors, locations.levels, target["boxes"]) for target in targets]
    owner = torch.stack(owners)  # (B, A)
    image, location = (owner >= 0).nonzero(as_tuple=True)
    counts = [0, *(len(target["boxes"]) for target in targets)]
    first = torch.tensor(counts, device=owner.device).cumsum(0)
    index = first[image] + owner[image, location]
    return Matches(
        image,
        location,
        locations.anchors[location],
        locations.strides[location],
        torch.cat([target["boxes"] for target in targets])[index],
        torch.cat([target["labels"] for target in targets])[index],
    )


class OneStageDetector(nn.Module, ABC):
    """Backbone, feature pyramid, and a head shared by all levels.

    Args:
        loaded: the backbone.
        num_classes: number of classes K.
        options: image sizes, channels and depth.
    """

    box_outputs: int
    """Outputs per location that encode its box."""

    def __init__(self, loaded: LoadedBackbone, num_classes: int, options: DetectorOptions) -> None:
        super().__init__()
        self.backbone = Pyramid(loaded, options.channels)
        strides = self.backbone.strides
        self.num_classes = num_classes
        self.transform = GeneralizedRCNNTransform(
            options.image_size, options.max_size, list(loaded.mean), list(loaded.std)
        )
        self.anchors = AnchorGenerator(
            sizes=tuple((ANCHOR_SIDE * stride,) for stride in strides),
            aspect_ratios=((1.0,),) * len(strides),
        )
        self.class_tower = _tower(options.channels, options.depth)
        self.box_tower = _tower(options.channels, options.depth)
        self.class_logits = nn.Conv2d(options.channels, num_classes, 3, padding=1)
        self.box_code = nn.Conv2d(options.channels, self.box_outputs, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides)))
        """Factor of the box code for each level; all other weights are shared."""
        for part in (self.class_tower, self.box_tower, self.class_logits, self.box_code):
            part.apply(initialize)
        assert self.class_logits.bias is not None
        nn.init.constant_(self.class_logits.bias, -math.log((1 - PRIOR) / PRIOR))

    # -- what a detector defines ----------------------------------------------------------------

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor], matches: Matches) -> dict[str, Tensor]:
        """Return the scalar losses of a batch.

        Args:
            outputs: ``classes`` (B, A, K), ``boxes`` (B, A, `box_outputs`) and `extra_outputs`, float32.
            matches: locations that are trained on an object.
        """

    @abstractmethod
    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return (B, A, K) scores in [0, 1], by which detections are selected and sorted."""

    @abstractmethod
    def decode(self, code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """Return (P, 4) boxes from (P, `box_outputs`) codes, (P, 4) anchors and (P,) strides."""

    def extra_outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Return further maps of one level by name, from the box tower's (B, C, h, w) features."""
        return {}

    # -- shared ---------------------------------------------------------------------------------

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training and detections in evaluation.

        Args:
            images: (3, H, W) each, of any size, in [0, 1].
            targets: for each image ``boxes`` (N, 4) in its pixels and ``labels`` (N,); only for training.

        Returns:
            In training ``{name: loss}``; in evaluation for each image ``boxes`` (D, 4), ``scores`` (D,) and
            ``labels`` (D,), sorted by score.
        """
        if self.training and targets is None:
            raise ValueError("training needs targets: the boxes and labels of each image")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        # The transform writes the resized boxes into the dictionaries that it is given.
        copies = None if targets is None else [dict(target) for target in targets]
        batch, resized = self.transform(list(images), copies)
        features = list(self.backbone(batch.tensors).values())
        outputs = self.head(features)
        locations = self.locations(batch, features)
        if resized is not None and self.training:
            return self.losses(outputs, match(locations, resized))
        scores = self.scores(outputs)
        detections = [
            self.detect(scores[i], outputs["boxes"][i], locations, size)
            for i, size in enumerate(batch.image_sizes)
        ]
        result: list[dict[str, Tensor]] = self.transform.postprocess(detections, batch.image_sizes, sizes)
        return result

    def locations(self, batch: ImageList, features: Sequence[Tensor]) -> Locations:
        """Return the locations of a padded batch, the same for all of its images."""
        levels = [feature.shape[-2] * feature.shape[-1] for feature in features]
        anchors: Tensor = self.anchors(batch, list(features))[0]
        strides = anchors.new_tensor(self.backbone.strides).repeat_interleave(
            torch.tensor(levels, device=anchors.device)
        )
        return Locations(anchors, strides, levels)

    def head(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the outputs at all locations by name, (B, A, ...) float32, level by level."""
        outputs: dict[str, list[Tensor]] = {}
        for scale, feature in zip(self.scales, features, strict=True):
            boxes = self.box_tower(feature)
            maps = {
                "classes": self.class_logits(self.class_tower(feature)),
                "boxes": self.box_code(boxes) * scale,
                **self.extra_outputs(boxes),
            }
            for name, values in maps.items():
                outputs.setdefault(name, []).append(values.flatten(2).transpose(1, 2))
        return {name: torch.cat(values, 1).float() for name, values in outputs.items()}

    def detect(
        self, scores: Tensor, code: Tensor, locations: Locations, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the detections of one image.

        Args:
            scores: (A, K)
            code: (A, `box_outputs`)
            locations: A of them.
            size: (H, W) of the image before padding.
        """
        kept = []
        first = 0
        for length in locations.levels:
            level = scores[first : first + length].flatten()
            above = (level > SCORE_THRESHOLD).nonzero()[:, 0]
            best = above[level[above].topk(min(CANDIDATES, len(above))).indices]
            kept.append(best + first * self.num_classes)
            first += length
        index = torch.cat(kept)
        place, labels = index // self.num_classes, index % self.num_classes
        values = scores.flatten()[index]
        boxes = self.decode(code[place], locations.anchors[place], locations.strides[place])
        limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        chosen = batched_nms(boxes, values, labels, NMS_THRESHOLD)[:DETECTIONS]
        return {"boxes": boxes[chosen], "scores": values[chosen], "labels": labels[chosen]}


def initialize(module: nn.Module) -> None:
    """Initialize a convolution of the head: weights from N(0, 0.01), bias 0; other modules stay."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _tower(channels: int, depth: int) -> nn.Sequential:
    """Return ``depth`` convolutions of 3x3, each with group norm and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            # 32 groups as in the papers, but at least four channels each: a level may be a single pixel.
            nn.GroupNorm(math.gcd(32, max(1, channels // 4)), channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
