"""Embeddings of images: what a classifier receives, or the mean of a backbone's last feature map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.models.feature_map import trace_backbone
from recursivemix.models.prediction import Prediction
from recursivemix.models.trained import TrainedModel
from recursivemix.tasks.backbone import Backbone


class RecordedFeatures:
    """Records the embeddings of each batch while networks predict it; `remove` ends that.

    Args:
        models: the networks.

    Raises:
        ValueError: a classifier that does not end in a linear layer.
    """

    def __init__(self, models: Sequence[TrainedModel]) -> None:
        self._passes: list[list[Tensor]] = [[] for _ in models]
        self._handles = [self._hook(model, kept) for model, kept in zip(models, self._passes, strict=True)]

    def added_to(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        """Predictions of the batch that was predicted last, with its embeddings.

        Several passes of a network over the batch are averaged, networks are concatenated.
        """
        each = [torch.stack(kept).mean(0) for kept in self._passes if kept]
        for kept in self._passes:
            kept.clear()
        rows = torch.cat(each, 1) if each else torch.zeros(0, 0)
        return (replace(one, features=row) for one, row in zip(predictions, rows, strict=True))

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _hook(model: TrainedModel, kept: list[Tensor]) -> Any:
        def keep_input(module: nn.Module, inputs: Any) -> None:
            kept.append(inputs[0].flatten(1).float().cpu())

        def keep_map(module: nn.Module, inputs: Any, maps: list[Tensor]) -> None:
            kept.append(maps[-1].float().mean((2, 3)).cpu())

        if model.task == "classification":
            return classifier(model).register_forward_pre_hook(keep_input)
        backbone = next(module for module in model.network.modules() if isinstance(module, Backbone))
        return backbone.register_forward_hook(keep_map)


def classifier(model: TrainedModel) -> nn.Linear:
    """The linear layer that gives a classifier's logits.

    Raises:
        ValueError: there is none.
    """
    size = model.preprocessing.size
    trace = trace_backbone(model.network, (size, size))
    for call in reversed(trace.calls):
        module = model.network.get_submodule(call.name)
        if (
            isinstance(module, nn.Linear)
            and module.out_features == len(model.classes)
            and call.output.dim() == 2
        ):
            return module
    raise ValueError(f"{model.model} does not end in a linear layer, so it has no features to return")
