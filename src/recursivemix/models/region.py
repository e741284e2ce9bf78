"""The training-only region head: what the network sees inside a box of its input. Imports torch only.

`region_pool` is RoIAlign to one cell, written as two small weight matrices and one einsum: no custom
operator, any floating dtype, deterministic, and it compiles. `RegionModel` puts it on any image
classifier without touching the classifier's code or the keys of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


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
    rows = _cell_weights(boxes[:, 1], boxes[:, 3], h / height, h).to(features.dtype)  # (B, h)
    columns = _cell_weights(boxes[:, 0], boxes[:, 2], w / width, w).to(features.dtype)  # (B, w)
    pooled: Tensor = torch.einsum("bchw,bh,bw->bc", features, rows, columns)
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
    step = torch.arange(cells + 1, device=start.device) + 0.5
    used = step < count[:, None]  # (B, points)
    points = low[:, None] + step * (extent / count.clamp(min=1))[:, None]
    points = points.clamp(0, cells - 1)
    at = torch.arange(cells, device=start.device)
    weights = (1 - (points[..., None] - at).abs()).clamp(min=0)  # (B, points, cells)
    return (weights * used[..., None]).sum(1) / count.clamp(min=1)[:, None]


Layout = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True)
class FeatureMap:
    """Where a backbone's last feature map is found, and how it is laid out."""

    name: str
    """Name of the submodule that returns it."""
    layout: Layout
    channels: int
    prefix_tokens: int = 0
    """Tokens before the map's own: class, distillation, registers."""

    def as_map(self, output: Any, image_size: tuple[int, int]) -> Tensor:
        """The submodule's output as (B, C, h, w)."""
        features = first_tensor(output)
        if features is None:
            raise ValueError(f"{self.name!r} returned no tensor but {type(output).__name__}")
        if self.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.layout == "NCHW":
            return features
        grid = token_grid(features.shape[1] - self.prefix_tokens, image_size)
        if grid is None:
            raise ValueError(
                f"{features.shape[1]} tokens less {self.prefix_tokens} prefix tokens make no grid of the "
                f"image's aspect {image_size}; name another module with feature="
            )
        return features[:, self.prefix_tokens :].transpose(1, 2).reshape(len(features), -1, *grid)


class RegionModel(nn.Module):
    """An image classifier and a second, training-only classifier for a region of its feature map.

    The paper's H' (its method figure; paper.md 1.1 and 1.2): the last feature map is pooled over each
    sample's box and classified. The backbone is used as it is, and `backbone.state_dict()` stays its own:
    save that for inference, where the region head is not needed.

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
        """
        self._capturing = boxes is not None
        logits = as_logits(self.backbone(images))
        self._capturing = False
        captured, self._captured = self._captured, None  # keeps no graph alive
        if boxes is None:
            return logits
        size = (images.shape[-2], images.shape[-1])
        features = self.feature_map.as_map(captured, size)
        return logits, self.region_head(region_pool(features, boxes, size))

    def extra_repr(self) -> str:
        return f"feature={self.feature_map.name!r}, {self.feature_map.layout}"

    def _capture(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # Not when the backbone is called alone or recomputes for its gradients: nothing would free it.
        if self._capturing:
            self._captured = output


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


@dataclass(frozen=True)
class Call:
    """One submodule's turn in a forward pass."""

    name: str
    output: Any
    leaf: bool


@dataclass(frozen=True)
class Trace:
    """One forward pass of a made-up image, in the order in which the submodules finished."""

    calls: list[Call]
    logits: Tensor
    image_size: tuple[int, int]

    @property
    def classes(self) -> int:
        return self.logits.shape[1]


def trace_backbone(backbone: nn.Module, image_size: tuple[int, int] | None) -> Trace:
    """Run a backbone once, in eval mode and without gradients, and note what each submodule returned."""
    weight = next(backbone.parameters(), None)
    if weight is None:
        raise ValueError(f"{type(backbone).__name__} has no parameters, so it is no classifier")
    first = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    sizes = [image_size] if image_size is not None else likely_sizes(backbone)
    failures = []
    for size in sizes:
        calls: list[Call] = []
        handles = []
        for name, module in backbone.named_modules():
            if name:
                leaf = next(module.children(), None) is None
                handles.append(module.register_forward_hook(_recorder(calls, name, leaf)))
        try:
            with evaluating(backbone):
                # No two cells alike: an average of an empty image's map could not be told from a maximum.
                image = torch.arange(channels * size[0] * size[1], dtype=torch.float64).sin()
                image = image.to(weight.device, weight.dtype).view(1, channels, *size)
                return Trace(calls, as_logits(backbone(image)), size)
        except (RuntimeError, ValueError, AssertionError) as error:
            failures.append(f"{size}: {error}")
        finally:
            for handle in handles:
                handle.remove()
    raise ValueError(
        f"{type(backbone).__name__} could not be run on a (1, {channels}, H, W) image; name the size it "
        f"takes with image_size=. " + "; ".join(failures)
    )


def _recorder(calls: list[Call], name: str, leaf: bool) -> Callable[[Any, Any, Any], None]:
    def record(module: Any, inputs: Any, output: Any) -> None:
        calls.append(Call(name, output, leaf))

    return record


def likely_sizes(backbone: nn.Module) -> list[tuple[int, int]]:
    """Image sizes to try: what the backbone says of itself, else common ones."""
    named: list[Any] = [
        getattr(getattr(backbone, "patch_embed", None), "img_size", None),
        (getattr(backbone, "pretrained_cfg", None) or {}).get("input_size"),
        getattr(backbone, "image_size", None),
        getattr(getattr(backbone, "config", None), "image_size", None),
        224,
        64,
        32,
    ]
    sizes = []
    for value in named:
        if isinstance(value, int):
            sizes.append((value, value))
        elif isinstance(value, (tuple, list)) and len(value) >= 2:
            sizes.append((int(value[-2]), int(value[-1])))
    return list(dict.fromkeys(sizes))


def find_feature_map(
    backbone: nn.Module, trace: Trace, feature: str | None, prefix_tokens: int | None
) -> FeatureMap:
    """The last output of a pass that is a spatial map, or the one of the submodule named."""
    if prefix_tokens is None:
        prefix_tokens = getattr(backbone, "num_prefix_tokens", None)
    widths, classifier = _linear_inputs(backbone, trace)
    maps: dict[str, FeatureMap] = {}  # in the order of the pass; a later call of a name wins
    for call in trace.calls:
        found = _describe(call, trace.image_size, widths, prefix_tokens)
        if found is not None:
            maps.pop(call.name, None)
            maps[call.name] = found
    candidates = ", ".join(list(maps)[-12:]) or "none"
    if feature is not None:
        if feature not in maps:
            raise ValueError(
                f"feature={feature!r} is no submodule that returns a feature map; the last candidates "
                f"are: {candidates}"
            )
        return maps[feature]
    if not maps:
        raise ValueError(
            f"no feature map was found in {type(backbone).__name__} on an image of {trace.image_size}: "
            f"no submodule returned (B, C, h, w), (B, h, w, C) or (B, tokens, C) with more than one cell"
        )
    last = list(maps.values())[-1]
    if last.layout != "tokens":
        return last
    # Attention pooling and auxiliary heads make tokens of their own from the map, at another width.
    same_width = [found for found in maps.values() if found.channels == classifier]
    return (same_width or [last])[-1]


def _linear_inputs(backbone: nn.Module, trace: Trace) -> tuple[set[int], int | None]:
    """Widths that linear layers take, which tell the channels of a map from its sides; the classifier's."""
    widths, classifier = set(), None
    for call in trace.calls:
        module = backbone.get_submodule(call.name)
        if isinstance(module, nn.Linear):
            widths.add(module.in_features)
            if call.output.dim() == 2:
                classifier = module.in_features
    return widths, classifier


def _describe(
    call: Call, image_size: tuple[int, int], widths: set[int], prefix_tokens: int | None
) -> FeatureMap | None:
    """This call's output as a feature map, or None if it is none (or only one cell)."""
    output = first_tensor(call.output)
    if output is None or not output.is_floating_point():
        return None
    if output.dim() == 4:
        _, a, b, c = output.shape
        # Channels last if only that reading has the image's aspect, or a linear layer's width.
        last = _same_aspect((a, b), image_size) and (
            not _same_aspect((b, c), image_size) or (c in widths and a not in widths)
        )
        # A side may be a few cells off the aspect (unpadded convolutions); attention's (B, heads, tokens,
        # width) is further off.
        if not last and abs(b * image_size[1] - c * image_size[0]) > 3 * max(image_size):
            return None
        cells, channels = (a * b, c) if last else (b * c, a)
        return FeatureMap(call.name, "NHWC" if last else "NCHW", channels) if cells > 1 else None
    if output.dim() == 3:
        prefixes = range(17) if prefix_tokens is None else (prefix_tokens,)
        for prefix in prefixes:
            count = output.shape[1] - prefix
            if count > 1 and token_grid(count, image_size) is not None:
                return FeatureMap(call.name, "tokens", output.shape[2], prefix)
    return None


def _same_aspect(cells: tuple[int, int], image_size: tuple[int, int]) -> bool:
    return cells[0] * image_size[1] == cells[1] * image_size[0]


def token_grid(count: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) with h w = count and the image's aspect, or None."""
    h = round((count * image_size[0] / image_size[1]) ** 0.5)
    if h < 1 or count % h or not _same_aspect((h, count // h), image_size):
        return None
    return h, count // h


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a submodule's output: itself, the first of a tuple, or a named last state."""
    if isinstance(output, Tensor):
        return output
    named = getattr(output, "last_hidden_state", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def as_logits(output: Any) -> Tensor:
    """(B, K) logits in what a classifier returned: the tensor, or the field ``logits``."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(
            f"the backbone must return (B, K) logits or an output with .logits, got "
            f"{type(output).__name__} {tuple(getattr(logits, 'shape', ()))}"
        )
    return logits


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards every submodule is in the mode it had."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training
