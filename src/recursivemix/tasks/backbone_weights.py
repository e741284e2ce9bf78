"""The weights that a backbone starts from: a checkpoint, a file of weights, timm's own, or random ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.checkpoint_file import CheckpointError, is_run_checkpoint, other_checkpoints
from recursivemix.models.pretrained import StoredWeights, load_weights, read_weights, timm_weights
from recursivemix.models.small import MODELS

from .backbone import LoadedBackbone, backbone_settings, new_backbone

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
        return _load(_read(path, model), model, path)
    if path.suffix in (".ckpt", ".safetensors", ".pth", ".pt") or "/" in source:
        raise ValueError(f"--backbone: there is no file {source}{other_checkpoints(path)}")
    if not timm.is_model(source):
        raise ValueError(
            f"--backbone {source!r} is neither a file nor a timm model: give a checkpoint, an export, a "
            f"model of timm.list_models(), or random (with --model)"
        )
    try:
        return _load(timm_weights(source, download=download), source, None)
    except ValueError as error:
        raise ValueError(
            f"--backbone {source}: {error}; or use --backbone random --model {source}"
        ) from error


def _read(path: Path, model: str | None) -> StoredWeights:
    try:
        return read_weights(path, model)
    except CheckpointError as error:
        raise error if is_run_checkpoint(path) else ValueError(f"--backbone {error}") from error


def _load(stored: StoredWeights, model: str | None, path: Path | None) -> LoadedBackbone:
    """Create the network of these weights, without its classifier, and load them."""
    stated, colors = stored.model, stored.preprocessing
    is_known = stated is not None and (stated in MODELS or timm.is_model(stated))
    name = stated if is_known else model or stated
    if name is None:
        raise ValueError(
            f"--backbone {path} does not state its network: add --model with timm's name for it"
        )
    if name not in MODELS and not timm.is_model(name):
        raise ValueError(f"--backbone {path} is of {name!r}, which timm does not have: give --model")
    if path is not None and model is not None and model.partition(".")[0] != name.partition(".")[0]:
        raise ValueError(f"--backbone {path} is of {name}, --model is {model}: leave --model out")
    kept = colors is not None and (stored.of_a_run or colors.size <= SMALL_IMAGE)
    size = colors.size if colors is not None and kept else 224
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if colors is None else (colors.mean, colors.std)
    loaded = new_backbone(backbone_settings(name, size, mean, std))
    result = load_weights(loaded.backbone.network, stored, "--backbone", classifier=False)
    keys = result.keys
    return replace(
        loaded, source=stored.source, matched=len(keys.matched), total=keys.total, pretrained=True
    )
