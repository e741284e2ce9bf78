"""Segmentation networks: a backbone, a decoder, and an auxiliary FCN head for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from recursivemix.data.annotated import IGNORE
from recursivemix.data.annotated_batches import resized
from recursivemix.tasks.backbone import new_backbone

from .names import Head, load_head


class Segmenter(nn.Module):
    """Predict a class for every pixel.

    Args:
        backbone: (B, 3, H, W) to a list of maps, the finest first.
        channels, strides: channels and stride of each map.
        num_classes: number of classes K.
        head: a name in `recursivemix.tasks.segmentation.names.HEADS`.
        width: channels of the decoder.
        dropout: probability of dropping a channel before a classifier.
        multiple: images are padded so that their sides are multiples of it, see `Backbone.multiple`.

    Raises:
        ValueError: unknown head, too few maps, segmentation_models.pytorch is not installed; in training, a
            batch of one image.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        head: Head = "upernet",
        *,
        width: int = 256,
        dropout: float = 0.1,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.multiple = multiple
        if len(channels) != len(strides) or not channels:
            raise ValueError(
                f"a segmenter needs a stride for each map, got channels {list(channels)} and strides "
                f"{list(strides)}"
            )
        try:
            create_decoder = load_head(head)
        except ModuleNotFoundError as error:
            raise ValueError(
                "segmentation needs segmentation-models-pytorch: pip install 'recursivemix[transfer]'"
            ) from error
        self.backbone = backbone
        self.decoder: nn.Module = create_decoder(channels, width)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))
        # The auxiliary head: one convolution on the second-last map, or on the only one.
        auxiliary_width = max(8, width // 2)
        self.auxiliary = nn.Sequential(
            nn.Conv2d(channels[-2:][0], auxiliary_width, 3, padding=1, bias=False),
            nn.BatchNorm2d(auxiliary_width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(auxiliary_width, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of every pixel.

        Args:
            images: (B, 3, H, W), normalized; B at least 2 in training.

        Returns:
            (B, K, H, W); in training a pair of it and the auxiliary head's.
        """
        if self.training and len(images) < 2:
            raise ValueError(
                "--batch-size must be at least 2: BatchNorm needs several values per channel, and the "
                "decoder pools each image to a single pixel"
            )
        height, width = images.shape[-2:]
        right, below = -width % self.multiple, -height % self.multiple
        if right or below:
            images = pad(images, (0, right, 0, below))
        maps = self.backbone(images)
        size = images.shape[-2:]
        # The decoders expect maps of strides 1 and 2 first and ignore them; timm's networks have none.
        logits = _upsampled(self.classifier(self.decoder([images, images, *maps])), size)
        logits = logits[..., :height, :width]
        if not self.training:
            return logits
        return logits, _upsampled(self.auxiliary(maps[-2:][0]), size)[..., :height, :width]


def create_network(settings: Mapping[str, Any]) -> Segmenter:
    """Return the segmenter of a checkpoint's settings, with random weights."""
    backbone = new_backbone(settings["backbone"]).backbone
    return Segmenter(
        backbone,
        backbone.channels,
        backbone.strides,
        len(settings["classes"]),
        settings["head"],
        width=settings["channels"],
        multiple=backbone.multiple,
    )


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (..., 3, H, W) uint8 images as a network takes them; mean and std are (3, 1, 1)."""
    return (images.float() / 255 - mean) / std


def predict_map(network: nn.Module, image: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """Return (H, W) int64 classes of a (3, H, W) uint8 image, predicted with a shorter side of ``size``."""
    logits = network(normalized(resized(image, size), mean, std)[None]).float()
    return interpolate(logits, size=image.shape[-2:], mode="bilinear")[0].argmax(0)


def _upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def segmentation_loss(
    logits: Tensor, aux_logits: Tensor, label_maps: Tensor, aux_weight: float
) -> dict[str, Tensor]:
    """Return the cross-entropy of both heads, averaged over labelled pixels; 0 if there are none.

    Args:
        logits, aux_logits: (B, K, H, W).
        label_maps: (B, H, W) classes, `IGNORE` for unlabelled pixels.
        aux_weight: weight of the auxiliary head's loss.

    Returns:
        Scalars ``decode`` and ``aux``.
    """
    targets = label_maps.long()
    count = (targets != IGNORE).sum().clamp(min=1)
    decode, aux = (
        cross_entropy(each.float(), targets, ignore_index=IGNORE, reduction="sum") / count
        for each in (logits, aux_logits)
    )
    return {"decode": decode, "aux": aux_weight * aux}
