"""Where a classifier's last feature map is: found by one pass, for any backbone. Imports torch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
    tokens = _token_shapes(trace)
    for call in trace.calls:
        found = (
            None if _is_heads(call, tokens) else _describe(call, trace.image_size, widths, prefix_tokens)
        )
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
    """Return the input widths of all linear layers, and of the classifier: one is the map's channels."""
    widths, classifier = set(), None
    for call in trace.calls:
        module = backbone.get_submodule(call.name)
        if isinstance(module, nn.Linear):
            widths.add(module.in_features)
            if call.output.dim() == 2:
                classifier = module.in_features
    return widths, classifier


def _token_shapes(trace: Trace) -> set[tuple[int, int]]:
    """Return the number and the width of the tokens of every output (B, tokens, C)."""
    outputs = [first_tensor(call.output) for call in trace.calls]
    return {(one.shape[1], one.shape[2]) for one in outputs if one is not None and one.dim() == 3}


def _is_heads(call: Call, token_shapes: set[tuple[int, int]]) -> bool:
    """Return whether an output is (B, heads, tokens, width): tokens that attention has split into heads.

    With 65 tokens of width 64 it has nearly the aspect of a square image.
    """
    output = first_tensor(call.output)
    if output is None or output.dim() != 4:
        return False
    _, heads, count, width = output.shape
    return (count, heads * width) in token_shapes


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
            known_width = not widths or output.shape[2] in widths  # attention's inner tensors are narrower
            if count > 1 and known_width and token_grid(count, image_size) is not None:
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
