"""Create a classifier by name: any model of timm, among them the networks of `small`."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import nn

from . import SMALL_IMAGE
from .feature_map import evaluating
from .small import MODELS


def create_model(
    name: str,
    num_classes: int,
    image_size: int,
    *,
    any_size: bool = False,
    drop_path: float | None = None,
    drop: float | None = None,
) -> nn.Module:
    """Create a classifier of (B, 3, image_size, image_size) images with random weights.

    Args:
        name: Any model of ``timm.list_models()``, which includes the keys of `MODELS`.
        num_classes: K.
        image_size: pixels per side; up to 64 the network gets a small stem (see `use_small_stem`), and a
            transformer patches of an eighth of the side. The networks of `MODELS` are made as they are.
        any_size: make a transformer that takes images of other sizes too, with the same parameters.
        drop_path: largest probability of dropping a residual branch; None: the network's own.
        drop: probability of dropout before the classifier; None: the network's own.

    Raises:
        ValueError: an unknown name, a network that can't take this size, or one without such dropout.
    """
    rates = {"drop_path": drop_path, "drop": drop}
    options: dict[str, Any] = {f"{key}_rate": rate for key, rate in rates.items() if rate is not None}
    if name in MODELS:
        for key in filter(rates.get, rates):
            raise ValueError(no_dropout(name, key))
        return MODELS[name](num_classes=num_classes)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"unknown model {name!r}: {hint}")
    small = image_size <= SMALL_IMAGE
    failure: Exception | None = None
    # Networks of a fixed input size, mostly transformers, need it as an argument; others don't take it.
    attempts: list[dict[str, Any]] = [{"img_size": image_size}, {}]
    if small:
        attempts.insert(0, {"img_size": image_size, "patch_size": max(1, image_size // 8)})
    if any_size:
        flexible = [{"dynamic_img_size": True}, {"strict_img_size": False}, {}]
        attempts = [sizes | more for sizes in attempts for more in flexible]
    for sizes in attempts:
        try:
            model: nn.Module = timm.create_model(
                name, pretrained=False, num_classes=num_classes, **sizes, **options
            )
            if small and "patch_size" not in sizes and not hasattr(model, "patch_embed"):
                use_small_stem(model)
            with evaluating(model):
                model(torch.zeros(1, 3, image_size, image_size))
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            failure = error
            continue
        return model
    for key in (key for key in rates if f"'{key}_rate'" in str(failure)):
        if rates[key]:
            raise ValueError(no_dropout(name, key))
        return create_model(name, num_classes, image_size, any_size=any_size, **rates | {key: None})
    raise ValueError(f"model {name!r} can't take images of {image_size} pixels: {failure}")


def no_dropout(model: str, option: str) -> str:
    """Return the message for a network without this kind of dropout."""
    flag = "--" + option.replace("_", "-")
    return f"{flag} does not apply to {model}: leave it out; where a recipe sets it, add {flag} 0"


def use_small_stem(model: nn.Module) -> None:
    """Keep the resolution of small images: a 3x3 stem of stride 1, and no pooling after it.

    Replaces the first convolution if it has a stride, and a max pooling that follows before the first
    block, as CIFAR versions of ImageNet networks do. Changes the model in place.
    """
    stem_name, stem = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if max(stem.stride) == 1:
        return
    if max(stem.kernel_size) > 3:
        small = nn.Conv2d(
            stem.in_channels, stem.out_channels, 3, 1, 1, groups=stem.groups, bias=stem.bias is not None
        )
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        parent, _, child = stem_name.rpartition(".")
        setattr(model.get_submodule(parent), child, small)
    else:
        stem.stride = (1, 1)
    convolutions = 0
    for name, module in model.named_modules():
        convolutions += isinstance(module, nn.Conv2d)
        if convolutions > 3:  # deeper than any stem
            return
        if isinstance(module, nn.MaxPool2d):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
            return
