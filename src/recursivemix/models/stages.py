"""The classifier layer, stages and layers of a network, by the names of their parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.models import group_parameters
from torch import nn

SMALL_MATCHER: dict[bool, dict[str, Any]] = {
    True: {"stem": r"^(?:conv|bn)1\b", "blocks": r"^layer(\d+)"},
    False: {"stem": r"^(?:conv|bn)1\b", "blocks": r"^layer(\d+)\.(\d+)"},
}
"""Groups of the networks that timm lacks, by ``coarse``, in the form of timm's ``group_matcher``."""


def classifier_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers that turn features into logits; a distilled transformer has several."""
    get_classifier: Any = getattr(network, "get_classifier", None)
    found = getattr(network, "fc", None) if get_classifier is None else get_classifier()
    return [
        layer for layer in (found if isinstance(found, tuple) else (found,)) if isinstance(layer, nn.Module)
    ]


def classifier_names(network: nn.Module) -> set[str]:
    """Return the names of the classifier's weights."""
    weights = {
        id(value)
        for layer in classifier_layers(network)
        for value in layer.state_dict(keep_vars=True).values()
    }
    return {name for name, value in network.state_dict(keep_vars=True).items() if id(value) in weights}


def set_to_zero(*layers: nn.Module) -> None:
    """Set all parameters of these layers to zero."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def layers_of(network: nn.Module, *, coarse: bool = False) -> dict[str, int]:
    """Return the layer of each parameter, counted from the input, as timm groups them.

    Args:
        network: a classifier.
        coarse: group by stage: 0 is the stem.

    Raises:
        ValueError: timm does not know the layers of this network.
    """
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None and not hasattr(network, "layer1"):
        raise ValueError(f"{type(network).__name__} has no layer groups in timm")
    groups = SMALL_MATCHER[coarse] if matcher is None else matcher(coarse=coarse)
    layers: dict[str, int] = group_parameters(network, groups, reverse=True)
    return layers


def frozen_names(network: nn.Module, freeze: str) -> set[str]:
    """Return the names of the parameters that ``--freeze`` keeps.

    Args:
        network: a classifier.
        freeze: "backbone" (all but the classifier), the number of stages counted from the input, stem
            included, or names of submodules separated by commas.

    Raises:
        ValueError: there are fewer stages, or there is no such submodule.
    """
    names = [name for name, _ in network.named_parameters()]
    head = classifier_names(network)
    if freeze == "backbone":
        return set(names) - head
    if freeze.isdecimal():
        layers = layers_of(network, coarse=True)
        stages = max((layer for name, layer in layers.items() if name not in head), default=0)
        count = int(freeze)
        if not 1 <= count <= stages:
            raise ValueError(
                f"--freeze must be 1 to {stages} stages for this network, or backbone, got {count}"
            )
        return {name for name in names if layers[name] <= count and name not in head}
    modules = dict(network.named_modules())
    parts = [part.strip() for part in freeze.split(",")]
    unknown = [part for part in parts if part == "" or part not in modules]
    if unknown:
        raise ValueError(
            f"--freeze {freeze}: this network has no {unknown[0]!r}; give backbone, a number of stages, or "
            f"names such as {', '.join(name for name, _ in network.named_children())}"
        )
    return {name for name in names if any(name.startswith(f"{part}.") for part in parts)}


def norms_of(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Return the batch normalization layers whose parameters are among ``names``."""
    frozen = set(names)
    layers: list[nn.Module] = []
    for prefix, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
            if own and own <= frozen:
                layers.append(module)
    return layers
