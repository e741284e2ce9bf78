"""Trained weights from a file or from timm, and how they are loaded into a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .checkpoint_file import is_run_checkpoint, read_tensors
from .preprocessing import (
    INTERPOLATIONS,
    Preprocessing,
    evaluation_resize,
    preprocessing_of_timm,
    three_numbers,
)
from .stages import classifier_names
from .trained import load_task
from .weight_keys import Keys, compare_keys, rename_by_order

LEAST_MATCHED = 0.95
"""Share of a network's weights, without its classifier, that a file must hold."""
WRAPPERS = ("module", "_orig_mod", "model", "network", "backbone", "encoder", "timm_model")
"""Names, in any order and number, that other programs put before a network's own: "_orig_mod.module."."""
COUNTER = "num_batches_tracked"
"""Counters of batch normalization, which older files lack and nothing uses."""


@dataclass(frozen=True)
class StoredWeights:
    """Weights, and what their source says about them."""

    tensors: Mapping[str, Tensor]
    source: str
    """For records and messages."""
    model: str | None = None
    """Name of the network."""
    preprocessing: Preprocessing | None = None
    of_a_run: bool = False
    """Whether the source is a checkpoint of a training run."""


@dataclass(frozen=True)
class LoadedWeights:
    """Which weights of a network were loaded."""

    source: str
    model: str | None
    """Name of the network that the source states."""
    keys: Keys
    """Keys of the network without its classifier, beside those of the source."""
    classifier: bool
    """Whether the classifier was loaded too."""

    def record(self) -> dict[str, Any]:
        """Return plain values for records and checkpoints."""
        return {
            "source": self.source,
            "keys": self.keys.total,
            "keys_matched": len(self.keys.matched),
            "missing": list(self.keys.missing),
            "other_shape": [str(mismatch) for mismatch in self.keys.mismatched],
            "classifier": "loaded" if self.classifier else "new",
        }

    def __str__(self) -> str:
        words = f"weights of {self.source}: {len(self.keys.matched)} of {self.keys.total} keys match"
        left = [*self.keys.missing, *map(str, self.keys.mismatched)]
        if left:
            words += f" (not {', '.join(left[:3])}{' ...' if len(left) > 3 else ''})"
        return f"{words}, the classifier is {'loaded' if self.classifier else 'new'}"


def read_weights(path: Path, model: str | None = None) -> StoredWeights:
    """Read a checkpoint of a run, a file of ``recursivemix export``, or weights of timm or torchvision.

    Args:
        path: the file.
        model: network whose preprocessing is timm's, for files that do not state theirs.

    Raises:
        CheckpointError: the file is missing or cannot be used.
    """
    if is_run_checkpoint(path):
        trained = load_task(path, "classification")
        weights = trained.network.state_dict()
        return StoredWeights(weights, str(path), trained.model, trained.preprocessing, of_a_run=True)
    tensors, about = read_tensors(path)
    named = about.get("architecture")
    return StoredWeights(tensors, str(path), named, _stated(about) or timm_preprocessing(named or model))


def _stated(about: Mapping[str, str]) -> Preprocessing | None:
    """Return the preprocessing in the metadata of an export."""
    try:
        values = {name: json.loads(about[name]) for name in ("input_size", "mean", "std")}
        size = int(values["input_size"][-1])
        mean, std = (three_numbers(values[name], name) for name in ("mean", "std"))
        interpolation = json.loads(about.get("interpolation", '"bilinear"'))
        resize = int(json.loads(about.get("resize", str(evaluation_resize(size)))))
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    if size < 1 or resize < size or min(std) <= 0 or interpolation not in INTERPOLATIONS:
        return None
    return Preprocessing(size, mean, std, resize, interpolation)


def timm_preprocessing(model: str | None) -> Preprocessing | None:
    """Return the preprocessing of timm's weights of a network; None if timm does not know it."""
    config = None if model is None or not timm.is_model(model) else timm.get_pretrained_cfg(model)
    return None if config is None else preprocessing_of_timm(config)


def timm_weights(model: str, *, download: bool) -> StoredWeights:
    """Read timm's pretrained weights of a network: from timm's cache, or the network if allowed.

    Args:
        model: timm's name, with or without the tag of its weights, such as resnet50.a1_in1k.
        download: download weights that are not in the cache.

    Raises:
        ValueError: timm has no weights of this network, or they would have to be downloaded.
    """
    config: Any = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no pretrained weights of {model!r}: see timm.list_pretrained()")
    path = cached_file(config)
    source = f"timm {model}" + (f".{config.tag}" if config.tag and "." not in model else "")
    colors = preprocessing_of_timm(config)
    if path is not None and not config.custom_load:
        return StoredWeights(read_tensors(path)[0], source, model, colors)
    if not download:
        raise ValueError(
            f"timm's weights of {model} are not in its cache: add --download, or give a file "
            f"with --weights FILE"
        )
    try:
        network: Any = timm.create_model(model, pretrained=True)
    except Exception as error:  # whatever a hub raises
        raise ValueError(
            f"timm cannot get the weights of {model}: {' '.join(str(error).split())}"
        ) from error
    return StoredWeights(network.state_dict(), source, model, colors)


def cached_file(config: Any) -> Path | None:
    """Return the file with the weights of timm's ``pretrained_cfg`` that is on this machine, or None."""
    if config.file:
        return Path(config.file) if Path(config.file).is_file() else None
    if config.hf_hub_id:
        from huggingface_hub import constants, try_to_load_from_cache

        repository, _, revision = config.hf_hub_id.partition("@")
        names = (
            [config.hf_hub_filename]
            if config.hf_hub_filename
            else ["model.safetensors", "pytorch_model.bin"]
        )
        for name in names:
            path = try_to_load_from_cache(
                repository, name, cache_dir=constants.HF_HUB_CACHE, revision=revision or None
            )
            if isinstance(path, str):
                return Path(path)
    if config.url:
        path = Path(torch.hub.get_dir(), "checkpoints", config.url.rpartition("/")[2])
        return path if path.is_file() else None
    return None


def load_weights(
    network: nn.Module, stored: StoredWeights, flag: str, *, classifier: bool
) -> LoadedWeights:
    """Load weights into a network.

    Position embeddings, relative positions and patches of transformers are resampled by timm.

    Args:
        network: a classifier, changed in place.
        stored: the weights.
        flag: the option that named them, for messages.
        classifier: load the classifier too, if its size is the same.

    Raises:
        ValueError: less than 95 % of the network's weights, without the classifier, are among them.
    """
    expected = network.state_dict()
    head = classifier_names(network)
    body = {key: value for key, value in expected.items() if key not in head}
    weights = _fitting(network, stored.tensors, body)
    keys = _body_keys(weights, body)
    if len(keys.matched) < LEAST_MATCHED * keys.total:
        counted = {key: value for key, value in expected.items() if not key.endswith(COUNTER)}
        by_order = rename_by_order({k: v for k, v in weights.items() if not k.endswith(COUNTER)}, counted)
        ordered = _body_keys(by_order, body)
        if len(ordered.matched) < LEAST_MATCHED * ordered.total:
            hint = (
                f"they are of {stored.model}"
                if stored.model
                else "is it another network, or another --model?"
            )
            raise ValueError(
                f"{flag} {stored.source}: {keys}; at least {LEAST_MATCHED:.0%} must match: {hint}"
            )
        weights, keys = by_order, ordered
    loaded = set(keys.matched)
    has_head = bool(head) and all(k in weights and weights[k].shape == expected[k].shape for k in head)
    if classifier and has_head:
        loaded |= head
    network.load_state_dict({key: weights[key].detach() for key in loaded}, strict=False)
    return LoadedWeights(stored.source, stored.model, keys, classifier and has_head)


def _body_keys(weights: Mapping[str, Tensor], body: Mapping[str, Tensor]) -> Keys:
    """Compare the keys of a network without its classifier, and without counters that a file lacks."""
    counted = {key: value for key, value in body.items() if key in weights or not key.endswith(COUNTER)}
    return compare_keys(weights, counted)


def _fitting(
    network: nn.Module, tensors: Mapping[str, Tensor], body: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return weights without the prefixes of other programs, converted by timm for this network."""
    prefixes = {"": None}
    for key in tensors:
        words = list(takewhile(WRAPPERS.__contains__, key.split(".")))
        prefixes |= {".".join(words[: i + 1]) + ".": None for i in range(len(words))}
    stripped = [
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in prefixes
    ]
    weights = max(stripped, key=lambda candidate: len(candidate.keys() & body.keys()))
    convert: Any = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None or compare_keys(weights, body).matched == tuple(body):
        return weights
    try:
        converted: dict[str, Tensor] = convert(dict(weights), network)
    except Exception:  # weights of another network: the comparison of keys says which
        return weights
    better = len(compare_keys(converted, body).matched) > len(compare_keys(weights, body).matched)
    return converted if better else weights
