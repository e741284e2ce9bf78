"""Synchronization of batch normalization over several processes."""

from __future__ import annotations

from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncedNorms(TorchSyncBatchNorm):
    """Synchronizes batch normalization layers in place, for Lightning.

    Lightning's own plugin puts new layers in their place. These lack the activation of timm's layers that
    normalize and activate at once, as in EfficientNet, MobileNet and DenseNet, and forward hooks; whoever
    holds a layer, to freeze it, would hold the old one.
    """

    def __init__(self) -> None:
        self._kinds: dict[nn.Module, type[nn.Module]] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Turn the layers into synchronized ones; return the model."""
        for module in model.modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
                self._kinds[module] = type(module)
                activates = isinstance(module, BatchNormAct2d)
                module.__class__ = SyncBatchNormAct if activates else nn.SyncBatchNorm
                vars(module)["process_group"] = None  # all processes
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Turn the layers back into those that they were; return the model."""
        for module, kind in self._kinds.items():
            module.__class__ = kind
            del vars(module)["process_group"]
        self._kinds.clear()
        return model
