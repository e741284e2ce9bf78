"""The training-only region head: what the network sees inside a box of its input. Imports torch only.

`region_pool` is RoIAlign to one cell, written as two small weight matrices and one einsum: no custom
operator, any floating dtype, deterministic, and it compiles. `RegionModel` puts it on any image
classifier without touching the classifier's code or the keys of its weights.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .feature_map import (
    FeatureMap,
    Trace,
    as_logits,
    evaluating,
    find_feature_map,
    first_tensor,
    trace_backbone,
)


def region_pool(features: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Average of a feature map inside a box of the image: RoIAlign, aligned, adaptive, output 1x1.

    RoIAlign takes ceil(extent) sample points along each side of the box and interpolates linearly
    between cell centres (Mask R-CNN, arXiv 1703.06870, section 3; "aligned" as torchvision counts).
    With one output cell that is a separable weighted mean.

    Args:
        features: (B, C, h, w), floating.
        boxes: (B, 4) ``(x1, y1, x2, y2)`` pixels of the image, end-exclusive, inside the image.
        image_size: (H, W) of the image in pixels.

    Returns:
        (B, C), dtype of the features; zeros for an empty box.
    """
    if features.dim() != 4 or boxes.shape != (len(features), 4):
        raise ValueError(
            f"region_pool takes (B, C, h, w) features and (B, 4) boxes, got {tuple(features.shape)} and "
            f"{tuple(boxes.shape)}"
        )
    (height, width), (h, w) = image_size, features.shape[-2:]
    rows = _cell_weights(boxes[:, 1], boxes[:, 3], h / height, h)  # (B, h)
    columns = _cell_weights(boxes[:, 0], boxes[:, 2], w / width, w)  # (B, w)
    # Multiplied first: a pass over the features for each of the two is several times slower.
    weights = (rows[:, :, None] * columns[:, None, :]).to(features.dtype)
    pooled: Tensor = torch.einsum("bchw,bhw->bc", features, weights)
    return pooled


def _cell_weights(start: Tensor, end: Tensor, scale: float, cells: int) -> Tensor:
    """(B, cells) float32: weight of each cell of one dimension in the mean over a box's side.

    Args:
        start, end: (B,) pixels.
        scale: cells a pixel.
    """
    # Half a cell off: pixel edges become cell centres. In torchvision's order of operations, since
    # the ceil below turns a rounding error into another number of sample points.
    low = start.float() * scale - 0.5
    extent = (end.float() * scale - 0.5) - low
    count = extent.ceil().clamp(min=0)  # (B,), for a box inside the image at most `cells` + 1 for rounding
    step = torch.arange(cells + 1, dtype=torch.float32, device=start.device) + 0.5
    used = step < count[:, None]  # (B, points)
    points = low[:, None] + step * (extent / count.clamp(min=1))[:, None]
    points = points.clamp(0, cells - 1)
    at = torch.arange(cells, device=start.device)
    weights = (1 - (points[..., None] - at).abs()).clamp(min=0)  # (B, points, cells)
    return (weights * used[..., None]).sum(1) / count.clamp(min=1)[:, None]


class RegionModel(nn.Module):
    """An image classifier and a second, training-only classifier for a region of its feature map.

    The paper's H' (arXiv 2203.06844, its method figure; docs/paper.md 1.1): the last feature map is pooled
    over each sample's box and classified. The backbone is used as it is, and `backbone.state_dict()`
    stays its own: save that for inference, where the region head is not needed. On several devices
    wrap it in DistributedDataParallel; ``torch.nn.DataParallel`` does not copy the hook on the feature map.

    Args:
        backbone: an image classifier of timm, torchvision or Hugging Face, or any module that maps
            (B, C, H, W) to (B, K) logits and ends in a linear layer.
        feature: name of the submodule whose output is the last feature map; None finds it with one pass
            of a made-up image and keeps the choice in `feature_map`.
        region_head: "separate" is a linear layer of its own (the paper's), "shared" sends the pooled
            region through the backbone's own classifier.
        image_size: (H, W) of that one pass; None tries the size the backbone was made for.
        prefix_tokens: tokens before the map's own in a transformer; None asks or infers.

    Raises:
        ValueError: no feature map or classifier is found; the message lists the candidates.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature: str | None = None,
        region_head: Literal["separate", "shared"] = "separate",
        image_size: tuple[int, int] | None = None,
        prefix_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if region_head not in ("separate", "shared"):
            raise ValueError(f"region_head must be 'separate' or 'shared', got {region_head!r}")
        trace = trace_backbone(backbone, image_size)
        self.backbone = backbone
        self.feature_map = find_feature_map(backbone, trace, feature, prefix_tokens)
        self.region_head: nn.Module
        if region_head == "separate":
            weight = next(backbone.parameters())
            self.region_head = nn.Linear(
                self.feature_map.channels, trace.classes, device=weight.device, dtype=weight.dtype
            )
        else:
            self.region_head = SharedHead(backbone, trace, self.feature_map)
        self._capturing = False
        self._captured: Any = None
        backbone.get_submodule(self.feature_map.name).register_forward_hook(self._capture)

    def forward(self, images: Tensor, boxes: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of the images, and of their regions if boxes are given.

        Args:
            images: (B, C, H, W).
            boxes: (B, 4) ``(x1, y1, x2, y2)`` pixels, as in ``MixedBatch.boxes``.

        Returns:
            (B, K) logits, exactly the backbone's; with boxes the pair ``logits, region_logits``.

        Raises:
            ValueError: Images or boxes of another kind.
        """
        _check_call(images, boxes)
        self._capturing = boxes is not None
        try:
            logits = as_logits(self.backbone(images))
        except RuntimeError as error:
            _explain(error, images, self.backbone)
            raise
        finally:
            self._capturing = False
            captured, self._captured = self._captured, None  # keeps no graph alive
        if boxes is None:
            return logits
        if captured is None:
            if getattr(self, "_is_replica", False):  # its backbone calls the hook of the model it copies
                raise RuntimeError(
                    "torch.nn.DataParallel does not work with RegionModel: use "
                    "torch.nn.parallel.DistributedDataParallel, one process per device"
                )
            raise RuntimeError(
                f"the backbone did not call its submodule {self.feature_map.name!r} in this pass. If "
                f"gradient checkpointing or a new submodule was set after wrapping, wrap after that instead"
            )
        size = (images.shape[-2], images.shape[-1])
        features = self.feature_map.as_map(captured, size)
        return logits, self.region_head(region_pool(features, boxes, size))

    def no_weight_decay(self) -> set[str]:
        """Parameters that the backbone wants no weight decay on, under their names here."""
        ask = getattr(self.backbone, "no_weight_decay", None)
        return {f"backbone.{name}" for name in ask()} if callable(ask) else set()

    def extra_repr(self) -> str:
        return f"feature={self.feature_map.name!r}, {self.feature_map.layout}"

    def _capture(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # Not when the backbone is called alone or recomputes for its gradients: nothing would free it.
        if self._capturing:
            self._captured = output


def _check_call(images: Tensor, boxes: Tensor | None) -> None:
    """Check the kind and shape of a call's arguments; no value is read."""
    dense = isinstance(images, Tensor) and images.layout == torch.strided
    if not dense or images.dim() != 4 or images.numel() == 0:
        came = (
            f"{images.layout}, shape {tuple(images.shape)}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise ValueError(f"images must be a dense (B, C, H, W) tensor with pixels, got {came}")
    if boxes is None:
        return
    expected = (images.shape[0], 4)
    if not isinstance(boxes, Tensor) or boxes.shape != expected or boxes.is_complex():
        came = f"shape {tuple(boxes.shape)}" if isinstance(boxes, Tensor) else type(boxes).__name__
        raise ValueError(f"boxes must be {expected}, (x1, y1, x2, y2) of each image, got {came}")
    if boxes.device != images.device:
        raise ValueError(f"boxes are on {boxes.device}, images on {images.device}: move both to one device")


def _explain(error: RuntimeError, images: Tensor, backbone: nn.Module) -> None:
    """Raise ValueError if the images' dtype or device explains an error of the backbone."""
    weight = next(backbone.parameters(), images)  # a replica of torch.nn.DataParallel lists none
    autocast = not images.is_meta and torch.is_autocast_enabled(images.device.type)
    if images.device != weight.device or (images.dtype != weight.dtype and not autocast):
        raise ValueError(
            f"images are {images.dtype} on {images.device}, the backbone's weights {weight.dtype} on "
            f"{weight.device}: use images.to({weight.device}, {weight.dtype}), or torch.autocast"
        ) from error


# Modules that take a pooled vector as it is; every other one is given a map of one cell.
_VECTOR_MODULES = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.Flatten, nn.ReLU, nn.GELU)


class SharedHead(nn.Module):
    """The backbone's own way from its feature map to its logits, for a map of one pooled cell.

    Calls the backbone's modules that ran after the feature map, one after the other. Was checked to give
    the backbone's logits for the mean of a whole map, or for the class token. Owns no parameters.
    """

    def __init__(self, backbone: nn.Module, trace: Trace, feature_map: FeatureMap) -> None:
        super().__init__()
        after = max(i for i, call in enumerate(trace.calls) if call.name == feature_map.name)
        names = [call.name for call in trace.calls[after + 1 :] if call.leaf]
        # In a tuple, so that the backbone's modules are not registered a second time.
        self._tail = tuple(backbone.get_submodule(name) for name in names)
        self._cell = (1, 1, -1) if feature_map.layout == "NHWC" else (-1, 1, 1)
        output = trace.calls[after].output
        whole = [feature_map.as_map(output, trace.image_size).mean((2, 3))]
        tokens = first_tensor(output)
        if feature_map.prefix_tokens and tokens is not None:
            whole.append(tokens[:, 0])
        with evaluating(backbone):
            if not any(self._gives(trace.logits, pooled) for pooled in whole):
                raise ValueError(
                    f"region_head='shared' needs a backbone that averages its feature map "
                    f"{feature_map.name!r}, or takes its class token, and classifies that; this one does "
                    f"more ({', '.join(names)}). Use region_head='separate'"
                )

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, K) logits of (B, C) pooled features."""
        for module in self._tail:
            if isinstance(module, nn.Linear):
                pooled = pooled.flatten(1)
            elif pooled.dim() == 2 and not isinstance(module, _VECTOR_MODULES):
                pooled = pooled.reshape(len(pooled), *self._cell)  # pooling and 1x1 convolutions want a map
            pooled = module(pooled)
        return pooled.flatten(1)

    def _gives(self, logits: Tensor, pooled: Tensor) -> bool:
        try:
            error = (self(pooled) - logits).abs().max()
        except (RuntimeError, ValueError, TypeError):  # a module that wants more than one cell
            return False
        # Against the logits' own scale: those of a fresh classifier are small, so wrong ones are near.
        return bool(error <= max(1e-3, 8 * torch.finfo(logits.dtype).eps) * logits.abs().max())
