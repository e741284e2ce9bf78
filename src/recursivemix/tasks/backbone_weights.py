"""The weights that a backbone starts from: a checkpoint, a file of weights, timm's own, or random ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.small import MODELS
from recursivemix.models.trained import load_task
from recursivemix.models.weight_keys import compare_keys

from .backbone import LoadedBackbone, backbone_settings, new_backbone

LEAST_MATCHED = 0.95
"""Share of a network's keys that a file of weights must hold."""
PREFIXES = ("", "module.", "model.", "network.", "backbone.", "encoder.")
"""What other programs put before a network's own names."""
CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""Keys under which other programs put the weights."""
RANDOM_MODEL = "resnet10t"
"""Network with random weights if none is named."""


def load_backbone(source: str, model: str | None = None, *, download: bool = False) -> LoadedBackbone:
    """Load a backbone.

    Args:
        source: a checkpoint of ``recursivemix fit``, a file of ``recursivemix export`` or other weights
            (.safetensors, .pth, .pt), the name of a timm model for its pretrained weights, or "random".
        model: name of the network, for "random" and for files that do not state it.
        download: allow timm to download weights that are not in its cache.

    Raises:
        ValueError: there is no such backbone, or less than 95 % of its keys are in the weights.
    """
    path = Path(source)
    if source == "random":
        return new_backbone(backbone_settings(model or RANDOM_MODEL))
    if path.is_file():
        return _read_checkpoint(path) if _is_run_checkpoint(path) else _read_weights(path, model)
    if path.suffix or "/" in source:
        raise ValueError(f"--backbone: there is no file {source}")
    if not timm.is_model(source):
        raise ValueError(
            f"--backbone {source!r} is neither a file nor a timm model: give a checkpoint, an export, a "
            f"model of timm.list_models(), or random (with --model)"
        )
    if not download:
        raise ValueError(
            f"--backbone {source} needs timm's weights, which may have to be downloaded: add --download, "
            f"or give a file of weights, or use --backbone random --model {source}"
        )
    try:
        network: Any = timm.create_model(source, pretrained=True)
    except Exception as error:  # whatever a hub raises
        raise ValueError(f"--backbone {source}: timm has no weights for it: {error}") from error
    config = network.pretrained_cfg
    loaded = new_backbone(backbone_settings(source, 224, config["mean"], config["std"]))
    name = f"timm ({config.get('tag') or 'default'})"
    return _load(loaded, network.state_dict(), name)


def _is_run_checkpoint(path: Path) -> bool:
    if path.suffix != ".ckpt":
        return False
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # reading it as a checkpoint gives a better message
        return True
    return isinstance(content, dict) and "hyper_parameters" in content and "ranks" in content


def _read_checkpoint(path: Path) -> LoadedBackbone:
    trained = load_task(path, "classification")
    colors = trained.preprocessing
    loaded = new_backbone(backbone_settings(trained.model, colors.size, colors.mean, colors.std))
    return _load(loaded, trained.network.state_dict(), str(path))


def _read_weights(path: Path, model: str | None) -> LoadedBackbone:
    weights, about = _weights_of(path)
    name = about.get("architecture") or model
    if name is None:
        raise ValueError(
            f"--backbone {path} does not state its network: add --model with timm's name for it"
        )
    if name not in MODELS and not timm.is_model(name):
        raise ValueError(f"--backbone {path} is of {name!r}, which timm does not have: give --model")
    size = int(json.loads(about["input_size"])[-1]) if "input_size" in about else 224
    mean, std = (json.loads(about.get(name, "null")) for name in ("mean", "std"))
    settings = backbone_settings(
        name, size if size <= SMALL_IMAGE else 224, mean or IMAGENET_MEAN, std or IMAGENET_STD
    )
    return _load(new_backbone(settings), weights, str(path))


def _weights_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, and its metadata."""
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                content: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--backbone {path} cannot be read as weights: {reason}") from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise ValueError(f"--backbone {path} holds {type(content).__name__}, not weights by name")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}, metadata


def _load(loaded: LoadedBackbone, weights: Mapping[str, Tensor], source: str) -> LoadedBackbone:
    """Load weights, except the classifier's; raise ValueError if less than 95 % of the keys match."""
    network = loaded.backbone.network
    expected = network.state_dict(keep_vars=True)
    get_classifier: Any = getattr(network, "get_classifier", None)  # timm's; `MODELS` have an fc
    classifier = getattr(network, "fc", None) if get_classifier is None else get_classifier()
    if isinstance(classifier, nn.Module):
        unused = {id(value) for value in classifier.state_dict(keep_vars=True).values()}
        expected = {key: value for key, value in expected.items() if id(value) not in unused}
    stripped = [
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        for prefix in PREFIXES
    ]
    matching = max(stripped, key=lambda candidate: len(candidate.keys() & expected.keys()))
    keys = compare_keys(matching, expected)
    if len(keys.matched) < LEAST_MATCHED * len(expected):
        raise ValueError(
            f"--backbone {source}: {keys}; at least {LEAST_MATCHED:.0%} must match: is it another network, "
            f"or another --model?"
        )
    network.load_state_dict({key: matching[key].detach() for key in keys.matched}, strict=False)
    return replace(loaded, source=source, matched=len(keys.matched), total=len(expected), pretrained=True)
