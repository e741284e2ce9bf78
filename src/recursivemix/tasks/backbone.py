"""A network without its classifier: its feature maps, for images of any size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypedDict

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD
from recursivemix.models.create import create_model
from recursivemix.models.feature_map import evaluating

from .settings import NormPolicy

FINEST_STRIDE = 4
"""Stride of the finest feature map that is used."""
PROBE = 128
"""Side in pixels of the image that channels and strides are measured with."""


class Backbone(nn.Module):
    """Feature maps of a network, the finest first: one per resolution, from a stride of 4 on.

    Networks for small images, which have fewer than two such maps, give their last two. A transformer of
    one resolution gives its last map resampled to four, two, one and half times its size.

    Args:
        network: a classifier; its last layer is removed if timm can do so, and is never trained.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        remove_classifier: Any = getattr(network, "reset_classifier", None)
        if remove_classifier is not None and hasattr(network, "forward_intermediates"):
            remove_classifier(0)
        patches = (m.patch_size[0] for m in network.modules() if isinstance(m, PatchEmbed))
        self.multiple: int = next(patches, 1)
        """The sides of images must be multiples of it: a transformer's patch; 1 for other networks."""
        self.fixed_norms: frozenset[str] = frozenset()
        """Names of batch normalization layers that always use their running statistics."""
        self._hooked: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._indices: list[int] = []
        self._factors: list[float] = []
        """Scales of the resampled maps of a transformer."""
        with evaluating(network), torch.no_grad():
            maps = self._all_maps(torch.zeros(1, 3, PROBE, PROBE))
        last = {PROBE // len(m[0, 0]): i for i, m in enumerate(maps)}  # the last map of each stride
        strides = sorted(last)
        chosen = [s for s in strides if s >= FINEST_STRIDE]
        chosen = chosen if len(chosen) > 1 else strides[-2:]
        self.strides: tuple[int, ...] = tuple(chosen)
        """Stride of each map in pixels."""
        self._indices = [last[s] for s in chosen]
        self.channels: tuple[int, ...] = tuple(maps[i].shape[1] for i in self._indices)
        """Number of channels of each map."""
        if len(strides) == 1:
            self._factors = [4.0, 2.0, 1.0, 0.5]
            self.strides = tuple(int(strides[0] / f) for f in self._factors)
            self.channels *= len(self._factors)
        self._names = [self._names[i] for i in self._indices] if self._names else []
        # Parameters that no map depends on are not trained: a classifier, a last normalization.
        used = {id(p) for p in _parameters_of(self, len(self.channels))}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in used)

    @property
    def stages(self) -> int:
        """Number of stages that can be frozen, one per map; 0 for a transformer of one resolution."""
        return 0 if self._factors else len(self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of images.

        Args:
            images: (B, 3, H, W), normalized.

        Returns:
            (B, C, h, w) for each of ``channels`` and ``strides``.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        maps = self._all_maps(images)
        maps = maps if self._names else [maps[i] for i in self._indices]
        if self._factors:
            (last,) = maps
            return [
                last if f == 1 else F.interpolate(last, scale_factor=f, mode="bilinear")
                for f in self._factors
            ]
        return maps

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all layers except the fixed normalization layers."""
        super().train(mode)
        for name in self.fixed_norms:
            self.network.get_submodule(name).training = False
        return self

    def _all_maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the network in the order of its layers; with hooks, only the chosen ones."""
        intermediates = getattr(self.network, "forward_intermediates", None)
        if intermediates is not None:
            all_maps: list[Tensor] = intermediates(images, intermediates_only=True)
            return all_maps
        if not self._names:
            self._names = self._hook_maps(images)
        self._hooked.clear()
        self.network(images)
        maps = [self._hooked[name] for name in self._names]
        self._hooked.clear()  # otherwise the graph would be kept alive
        return maps

    def _hook_maps(self, images: Tensor) -> list[str]:
        """Hook the last submodule that outputs a map of each size; return their names."""
        outputs: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(partial(_keep_map, outputs, name))
            for name, module in self.network.named_modules()
            if name
        ]
        self.network(images)
        for handle in handles:
            handle.remove()
        last = {tuple(output.shape[-2:]): name for name, output in outputs.items()}
        for name in last.values():
            hook = partial(_keep, self._hooked, name)  # unlike a closure, it can be copied with the module
            self.network.get_submodule(name).register_forward_hook(hook)
        return list(last.values())


def _keep(outputs: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    outputs[name] = output


def _keep_map(outputs: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] > 1:
        outputs.pop(name, None)
        outputs[name] = output


class BackboneSettings(TypedDict):
    """What a checkpoint must hold to create a backbone."""

    model: str
    image_size: int
    """Side in pixels of the images it was trained on; determines the stem."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone, and the source of its weights."""

    backbone: Backbone
    settings: BackboneSettings
    source: str = "random"
    """For records and messages."""
    matched: int = 0
    """Number of keys of the network that the weights have."""
    total: int = 0
    """Number of keys of the network, without its classifier."""
    pretrained: bool = False

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.settings["model"]

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the preprocessing, RGB in [0, 1]."""
        return self.settings["mean"]

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the preprocessing, RGB in [0, 1]."""
        return self.settings["std"]

    @property
    def origin(self) -> dict[str, Any]:
        """Source of the weights as plain values, for checkpoints and records."""
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


def backbone_settings(
    model: str,
    image_size: int = 224,
    mean: Iterable[float] = IMAGENET_MEAN,
    std: Iterable[float] = IMAGENET_STD,
) -> BackboneSettings:
    """Return the settings of a backbone; the preprocessing is ImageNet's by default."""
    red, green, blue = (float(value) for value in mean)
    red_std, green_std, blue_std = (float(value) for value in std)
    return {
        "model": model,
        "image_size": image_size,
        "mean": (red, green, blue),
        "std": (red_std, green_std, blue_std),
    }


def new_backbone(settings: BackboneSettings) -> LoadedBackbone:
    """Create a backbone with random weights.

    Raises:
        ValueError: unknown network, or one that takes no images of other sizes.
    """
    model = settings["model"]
    network = create_model(model, 1000, settings["image_size"], any_size=True)
    try:
        backbone = Backbone(network.to(memory_format=torch.channels_last))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{model} cannot be a backbone here, where images have any size: {error}"
        ) from error
    return LoadedBackbone(backbone, settings)


def prepare_norms(backbone: Backbone, policy: NormPolicy, frozen_stages: int) -> None:
    """Choose what of a backbone is trained.

    Args:
        backbone: changed in place.
        policy: of batch normalization: "frozen" fixes statistics, scale and shift; "statistics" fixes the
            running statistics only (mmdetection's ``norm_eval``, as published for detection); "train" and
            "sync" train everything.
        frozen_stages: number of stages that are not trained, counted from the input. A stage ends with a
            feature map: 1 of four is the stem with the first stage, as published for detection.

    Raises:
        ValueError: there are fewer stages.
    """
    if not 0 <= frozen_stages <= backbone.stages:
        allowed = f"0 to {backbone.stages}" if backbone.stages else "0"
        raise ValueError(f"--frozen-stages must be {allowed} for this backbone, got {frozen_stages}")
    frozen = {id(p) for p in _parameters_of(backbone, frozen_stages)}
    fixed_norms = set()
    for name, module in backbone.network.named_modules():
        in_frozen_stage = any(id(p) in frozen for p in module.parameters(recurse=False))
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if in_frozen_stage or (is_norm and policy == "frozen"):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        if is_norm and (in_frozen_stage or policy in ("frozen", "statistics")):
            fixed_norms.add(name)
    backbone.fixed_norms = frozenset(fixed_norms)
    backbone.train(backbone.training)


def _parameters_of(backbone: Backbone, stages: int) -> list[nn.Parameter]:
    """Return the parameters that the first maps depend on: those with a gradient."""
    if stages == 0:
        return []
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    with evaluating(backbone), torch.enable_grad():
        maps = backbone(torch.zeros(1, 3, PROBE, PROBE))
        total = torch.stack([m.float().sum() for m in maps[:stages]]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
