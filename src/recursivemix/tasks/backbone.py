"""A trained network without its classifier: its feature maps, of images of any size.

`load_backbone` takes what people have: a checkpoint or an export of ours, any file of weights, timm's own
weights, or none at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.create import MODELS, create_model
from recursivemix.models.feature_map import evaluating
from recursivemix.models.trained import load_task
from recursivemix.models.weight_keys import Keys, compare_keys

from .settings import NormPolicy

LEAST_MATCHED = 0.95
"""Share of a network's keys that a file of weights must hold."""
FINEST_STRIDE = 4
"""Of the maps that pyramids begin with."""
PREFIXES = ("module.", "model.", "network.", "backbone.", "encoder.")
"""What other programs put before a network's own names."""
CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""Under which of a file's keys they put the weights."""
SMALL_MODEL = "resnet10t"
"""Which network is random where none is named."""
PROBE = 128
"""Pixels a side of the image that tells channels and strides."""


class Backbone(nn.Module):
    """A network's feature maps, the finest first: one of every resolution, from a stride of 4 on.

    Networks for small images, which have fewer than two maps of that stride, give their last two. A
    transformer of one resolution gives its last map at half, one, two and four times its stride's size.

    Args:
        network: a classifier; its last layer is taken off where timm can do that, and is never trained.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        without_classifier: Any = getattr(network, "reset_classifier", None)
        if without_classifier is not None and hasattr(network, "forward_intermediates"):
            without_classifier(0)
        self._hooked: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._indices: list[int] = []
        self._factors: list[float] = []
        """Of the resampled maps of a transformer."""
        with evaluating(network), torch.no_grad():
            probe = torch.zeros(1, 3, PROBE, PROBE)
            found = self._all_maps(probe)
        last = {PROBE // len(m[0, 0]): i for i, m in enumerate(found)}  # one of every resolution
        strides = sorted(last)
        chosen = [s for s in strides if s >= FINEST_STRIDE]
        chosen = chosen if len(chosen) > 1 else strides[-2:]
        self.strides: tuple[int, ...] = tuple(chosen)
        """Pixels of the image to one of each map."""
        self._indices = [last[s] for s in chosen]
        self.channels: tuple[int, ...] = tuple(found[i].shape[1] for i in self._indices)
        """Of each map."""
        if len(strides) == 1:
            self._factors = [4.0, 2.0, 1.0, 0.5]
            self.strides = tuple(int(strides[0] / f) for f in self._factors)
            self.channels *= len(self._factors)
        self._names = [self._names[i] for i in self._indices] if self._names else []
        # What no map depends on is no part of what is trained: a classifier, a last norm.
        used = {id(p) for p in _parameters_of(self, len(self.channels))}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in used)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised to (B, C, h, w) of every `channels` and `strides`."""
        images = images.contiguous(memory_format=torch.channels_last)
        found = self._all_maps(images)
        maps = found if self._names else [found[i] for i in self._indices]
        if self._factors:
            (last,) = maps
            return [
                last if f == 1 else F.interpolate(last, scale_factor=f, mode="bilinear")
                for f in self._factors
            ]
        return maps

    def _all_maps(self, images: Tensor) -> list[Tensor]:
        """Every map that the network offers, in the order of its layers; later only the chosen ones."""
        intermediates = getattr(self.network, "forward_intermediates", None)
        if intermediates is not None:
            maps: list[Tensor] = intermediates(images, intermediates_only=True)
            return maps
        if not self._names:
            self._names = self._hook_maps(images)
        self._hooked.clear()
        self.network(images)
        found = [self._hooked[name] for name in self._names]
        self._hooked.clear()  # keeps no graph alive
        return found

    def _hook_maps(self, images: Tensor) -> list[str]:
        """Have every submodule that gives a map keep its last one; the names of the last of each size."""
        calls: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] > 1:
                    calls.pop(name, None)
                    calls[name] = output

            return hook

        handles = [m.register_forward_hook(keep(n)) for n, m in self.network.named_modules() if n]
        self.network(images)
        for handle in handles:
            handle.remove()
        last = {tuple(output.shape[-2:]): name for name, output in calls.items()}

        def capture(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                self._hooked[name] = output

            return hook

        for name in last.values():
            self.network.get_submodule(name).register_forward_hook(capture(name))
        return list(last.values())


class BackboneSettings(TypedDict):
    """What a checkpoint must know to make a backbone anew, to load its weights into."""

    model: str
    image_size: int
    """Pixels a side it was trained on; decides about the stem."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone, where its weights are from, and how its images must be prepared."""

    backbone: Backbone
    source: str
    """In words, for records and messages."""
    model: str
    matched: int
    """Keys of the network, without its classifier, that the weights were found for."""
    total: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pretrained: bool
    image_size: int
    """Pixels a side it was trained on; decides about the stem."""

    @property
    def settings(self) -> BackboneSettings:
        """For `new_backbone`."""
        return {"model": self.model, "image_size": self.image_size, "mean": self.mean, "std": self.std}

    @property
    def origin(self) -> dict[str, Any]:
        """For records."""
        return {
            "source": self.source,
            "model": self.model,
            "keys_matched": self.matched,
            "keys": self.total,
            "pretrained": self.pretrained,
        }

    def __str__(self) -> str:
        if not self.pretrained:
            return f"{self.model}, random weights"
        return f"{self.model} from {self.source}: {self.matched} of its {self.total} keys match"


def load_backbone(source: str, model: str | None = None, *, download: bool = False) -> LoadedBackbone:
    """The backbone that a person named.

    Args:
        source: a checkpoint that ``recursivemix fit`` wrote, a file that ``recursivemix export`` wrote or
            any other of weights (.safetensors, .pth, .pt), the name of a timm model for its pretrained
            weights, or "random".
        model: name of the network, for "random" and for files that don't say it.
        download: let timm fetch weights that are not in its cache.

    Raises:
        ValueError: nothing of that name, or weights of which less than 95 % fit; says which don't.
    """
    path = Path(source)
    if source == "random":
        name = model or SMALL_MODEL
        return _of_classifier(_network(name, 224), source, name, 224)
    if path.is_file():
        return _read_checkpoint(path) if _is_our_checkpoint(path) else _read_weights(path, model)
    if path.suffix or "/" in source:
        raise ValueError(f"--backbone: there is no file {source}")
    if not timm.is_model(source):
        raise ValueError(
            f"--backbone {source!r} is no file and no timm model: name a checkpoint, an export, a model "
            f"of timm.list_models(), or random (with --model)"
        )
    if not download:
        raise ValueError(
            f"--backbone {source} takes timm's weights, from the network where its cache lacks them: add "
            f"--download; or name a file of weights; or --backbone random --model {source}"
        )
    try:
        network: Any = timm.create_model(source, pretrained=True)
    except Exception as error:  # anything that a hub may have against us
        raise ValueError(f"--backbone {source}: timm has no weights for it here: {error}") from error
    settings = network.pretrained_cfg
    twin = _network(source, 224)
    keys = _load(twin, network.state_dict(), source)
    return _of_classifier(
        twin,
        f"timm ({settings.get('tag') or 'default'})",
        source,
        224,
        keys,
        settings["mean"],
        settings["std"],
    )


def new_backbone(settings: BackboneSettings) -> LoadedBackbone:
    """A backbone of random weights."""
    network = _network(settings["model"], settings["image_size"])
    return _of_classifier(
        network,
        "random",
        settings["model"],
        settings["image_size"],
        None,
        settings["mean"],
        settings["std"],
    )


def prepare_norms(backbone: Backbone, policy: NormPolicy, frozen_stages: int) -> None:
    """Set what of a backbone is trained, once and for all of its `train` and `eval`.

    Args:
        backbone: changed in place.
        policy: of batch norm: "frozen" fixes statistics, scale and shift; "statistics" fixes the
            statistics alone, as the paper's detectors do (mmdetection's norm_eval); "train" and "sync"
            train everything ("sync" over all devices, which the trainer sets).
        frozen_stages: how many stages are not trained, counted from the input: 0 none, 1 the stem and the
            first stage, as in the paper's detectors.

    Raises:
        ValueError: more stages than there are.
    """
    maps = [f"a map of stride {s}" for s in backbone.strides]
    if not 0 <= frozen_stages <= len(maps):
        raise ValueError(f"--frozen-stages must be 0 to {len(maps)} for this backbone, got {frozen_stages}")
    fixed = {id(p) for p in _parameters_of(backbone, frozen_stages)}
    for module in backbone.network.modules():
        own = any(id(p) in fixed for p in module.parameters(recurse=False))
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if own or (is_norm and policy == "frozen"):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        if is_norm and (own or policy in ("frozen", "statistics")):
            module.register_forward_pre_hook(_evaluate_first)


def _evaluate_first(module: nn.Module, inputs: Any) -> None:
    """Keep a batch norm on its running statistics, whatever mode the network is put into."""
    module.training = False


def _parameters_of(backbone: Backbone, stages: int) -> list[nn.Parameter]:
    """What the first maps depend on: the parameters that have a gradient from them."""
    if stages == 0:
        return []
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    with evaluating(backbone), torch.enable_grad():
        maps = backbone(torch.zeros(1, 3, PROBE, PROBE))
        total = torch.stack([m.float().sum() for m in maps[:stages]]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]


# -- sources ----------------------------------------------------------------------------------------


def _network(model: str, image_size: int) -> nn.Module:
    return create_model(model, 1000, image_size, any_size=True)


def _of_classifier(
    network: nn.Module,
    source: str,
    model: str,
    image_size: int,
    keys: Keys | None = None,
    mean: Iterable[float] = IMAGENET_MEAN,
    std: Iterable[float] = IMAGENET_STD,
) -> LoadedBackbone:
    red, green, blue = mean
    red_std, green_std, blue_std = std
    return LoadedBackbone(
        Backbone(network.to(memory_format=torch.channels_last)),
        source,
        model,
        0 if keys is None else len(keys.matched),
        0 if keys is None else len(keys.matched) + len(keys.missing) + len(keys.mismatched),
        (float(red), float(green), float(blue)),
        (float(red_std), float(green_std), float(blue_std)),
        keys is not None,
        image_size,
    )


def _is_our_checkpoint(path: Path) -> bool:
    if path.suffix != ".ckpt":
        return False
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a damaged file gets its message from `load_checkpoint`
        return True
    return isinstance(content, dict) and "hyper_parameters" in content and "ranks" in content


def _read_checkpoint(path: Path) -> LoadedBackbone:
    trained = load_task(path, "classification")
    colors, size = trained.preprocessing, trained.preprocessing.size
    network = _network(trained.model, size)
    keys = _load(network, trained.network.state_dict(), str(path))
    return _of_classifier(network, str(path), trained.model, size, keys, colors.mean, colors.std)


def _read_weights(path: Path, model: str | None) -> LoadedBackbone:
    weights, about = _weights_of(path)
    name = about.get("architecture") or model
    if name is None:
        raise ValueError(
            f"--backbone {path} does not say of which network it is: add --model, as timm calls it"
        )
    if name not in MODELS and not timm.is_model(name):
        raise ValueError(
            f"--backbone {path} is of {name!r}, which timm does not know: name it with --model"
        )
    size = int(json.loads(about["input_size"])[-1]) if "input_size" in about else 224
    network = _network(name, size if size <= SMALL_IMAGE else 224)
    keys = _load(network, weights, str(path))
    mean, std = (json.loads(about.get(name, "null")) for name in ("mean", "std"))
    return _of_classifier(network, str(path), name, size, keys, mean or IMAGENET_MEAN, std or IMAGENET_STD)


def _weights_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what it says of itself."""
    about: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                content: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--backbone {path} can't be read as weights: {reason}") from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise ValueError(f"--backbone {path} holds no weights by name but {type(content).__name__}")
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return weights, about


def _load(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> Keys:
    """Load all but the classifier; raises ValueError where less than 95 % of the keys fit."""
    own = network.state_dict(keep_vars=True)
    ask: Any = getattr(network, "get_classifier", None)  # timm's; the networks of `MODELS` have an fc
    classifier = getattr(network, "fc", None) if ask is None else ask()
    if isinstance(classifier, nn.Module):
        last = {id(value) for value in classifier.state_dict(keep_vars=True).values()}
        own = {key: value for key, value in own.items() if id(value) not in last}
    found = max(
        (_without(weights, prefix) for prefix in ("", *PREFIXES)), key=lambda w: len(w.keys() & own.keys())
    )
    keys = compare_keys(found, own)
    total = len(own)
    if len(keys.matched) < LEAST_MATCHED * total:
        raise ValueError(
            f"--backbone {source}: {keys}; at least {LEAST_MATCHED:.0%} must match, so this is another "
            f"network (or another --model)"
        )
    network.load_state_dict({key: found[key].detach() for key in keys.matched}, strict=False)
    return keys


def _without(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
