"""UPerNet and PSPNet on a backbone: segmentation_models.pytorch's decoders, and an auxiliary FCN head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from recursivemix.data.annotated import IGNORE
from recursivemix.tasks.backbone import new_backbone

Head = Literal["upernet", "pspnet"]


class Segmenter(nn.Module):
    """A class at every pixel.

    UPerNet (Xiao et al., arXiv 1807.10221) decodes all of the backbone's maps, PSPNet (Zhao et al.,
    arXiv 1612.01105) its last one, here without dilation. An FCN head on the second-last map, of one
    convolution, helps training alone.

    Args:
        backbone: (B, 3, H, W) to a list of maps, the finest first.
        channels, strides: of each map.
        num_classes: K.
        head: "upernet" or "pspnet".
        width: channels of the decoder.
        dropout: probability that a channel before a classifier is dropped.

    Raises:
        ValueError: too few maps; segmentation_models.pytorch is not installed; in training, a batch of one.
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
    ) -> None:
        super().__init__()
        try:
            from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
            from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
        except ModuleNotFoundError as error:
            raise ValueError(
                "segmentation needs segmentation-models-pytorch: pip install 'recursivemix[transfer]'"
            ) from error

        least = 2 if head == "upernet" else 1
        if len(channels) != len(strides) or len(channels) < least:
            raise ValueError(
                f"{head} needs {least} maps or more, with a stride for each; got channels {list(channels)} "
                f"and strides {list(strides)}"
            )
        self.backbone = backbone
        self.head = head
        self.decoder: Any
        if head == "upernet":
            # The decoder leaves out two maps of strides 1 and 2, which timm's networks don't have.
            all_channels = [0, 0, *channels]
            self.decoder = UPerNetDecoder(all_channels, len(channels) + 1, width)
        else:
            self.decoder = PSPDecoder([channels[-1]], out_channels=width, dropout=0.0)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))
        inner = channels[-2] if len(channels) > 1 else channels[-1]
        narrow = max(8, width // 2)
        self.auxiliary = nn.Sequential(
            nn.Conv2d(inner, narrow, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(narrow, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of every pixel.

        Args:
            images: (B, 3, H, W), normalised; B at least 2 in training.

        Returns:
            (B, K, H, W); in training the pair of it and the auxiliary head's.
        """
        if self.training and len(images) < 2:
            raise ValueError(
                "batch norm can't tell a mean of one image after pooling to one pixel: train with batches "
                "of at least 2"
            )
        maps = self.backbone(images)
        size = images.shape[-2:]
        decoded = self.decoder([images, images, *maps] if self.head == "upernet" else maps)
        logits = _enlarged(self.classifier(decoded), size)
        if not self.training:
            return logits
        return logits, _enlarged(self.auxiliary(maps[-2] if len(maps) > 1 else maps[-1]), size)


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
    )


def _enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def segmentation_loss(
    logits: Tensor, aux_logits: Tensor, label_maps: Tensor, aux_weight: float
) -> dict[str, Tensor]:
    """Cross-entropy of both heads, a mean over the pixels that have a class; 0 where none has.

    Args:
        logits, aux_logits: (B, K, H, W).
        label_maps: (B, H, W) classes, `IGNORE` for none.
        aux_weight: of the auxiliary head's loss.

    Returns:
        ``decode`` and ``aux``, each a number.
    """
    targets = label_maps.long()
    count = (targets != IGNORE).sum().clamp(min=1)
    losses = [
        cross_entropy(own.float(), targets, ignore_index=IGNORE, reduction="sum") / count
        for own in (logits, aux_logits)
    ]
    return {"decode": losses[0], "aux": aux_weight * losses[1]}
