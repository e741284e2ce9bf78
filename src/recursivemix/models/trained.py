"""From a checkpoint to a network with classes and preprocessing: the only reader, for every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from pkgutil import resolve_name
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .checkpoint_file import CheckpointError, read_checkpoint
from .create import create_model
from .prediction import Prediction
from .preprocessing import INTERPOLATIONS, Preprocessing, evaluation_resize, three_numbers
from .weight_keys import compare_keys

Task = Literal["classification", "detection", "instance", "segmentation"]
DENSE: dict[str, str] = {
    "detection": "recursivemix.tasks.detection.create:create_network",
    "instance": "recursivemix.tasks.detection.create:create_network",
    "segmentation": "recursivemix.tasks.segmentation.model:create_network",
}
"""Functions from a checkpoint's settings to its network, imported when a checkpoint of the task is read."""
PREDICT = "recursivemix.evaluation.predict:predict"
LARGEST_SIZE = 8192
"""Pixels per side; a network for more is not built."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network without its region head, in eval mode, and what is needed to use it."""

    path: Path
    """The checkpoint."""
    task: Task
    model: str
    """Name of the network, or of its backbone, as timm or this package calls it."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    network: nn.Module
    settings: Mapping[str, Any]
    """Settings of the training run, as the checkpoint holds them."""

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels."""
        return bool(self.settings.get("multi_label"))

    def to(self, device: torch.device | str) -> TrainedModel:
        """Move the network to a device, in place."""
        self.network.to(device)
        return self

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of a classifier's (N, K) logits; of single labels they sum to one."""
        logits = logits.float()
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def predict(
        self,
        images: Any,
        *,
        top_k: int = 5,
        tta: Literal["flip"] | None = None,
        features: bool = False,
        batch_size: int = 32,
        workers: int = 0,
    ) -> list[Prediction]:
        """Predict classes and probabilities, boxes and scores, or label maps.

        Args:
            images: an image or a sequence of them: file names, PIL images, (H, W, 3) uint8 arrays, or
                (3, H, W) tensors that are uint8 or floating in [0, 1].
            top_k: number of classes to return, the most probable first; for classification.
            tta: "flip" averages with the prediction for the mirrored image.
            features: return the network's embedding too.
            batch_size: images per batch; label maps are predicted one by one.
            workers: threads that read files; 0 reads in the calling thread.

        Returns:
            One prediction per image, in order.

        Raises:
            ValueError: a file that cannot be read, or an image of another form.
        """
        predict: Callable[..., list[Prediction]] = resolve_name(PREDICT)
        return predict(
            [self], images, top_k=top_k, tta=tta, features=features, batch_size=batch_size, workers=workers
        )


def load(checkpoint: str | PathLike[str]) -> TrainedModel:
    """Load the network of a checkpoint, of any task, on the CPU.

    Reads tensors and plain values only; nothing in the file is executed.

    Args:
        checkpoint: file that a training run wrote, such as ``runs/first/checkpoints/best.ckpt``.

    Raises:
        CheckpointError: a ValueError in one line: the file is missing, damaged, not a checkpoint, or holds
            other weights than those of the network that it names.
    """
    path = Path(checkpoint)
    content = read_checkpoint(path)
    settings = content["hyper_parameters"]
    try:
        task = task_of(settings)
        model = _entry(settings, "model", str)
        classes = _entry(settings, "classes", list, str)
        preprocessing = preprocessing_of(settings, task)
        if task == "classification":
            network = create_model(model, len(classes), preprocessing.size)
            network.to(memory_format=torch.channels_last)
        else:
            network = resolve_name(DENSE[task])(settings)
        _load_weights(network, content["state_dict"])
    except Exception as error:  # settings of other types fail anywhere in a constructor
        raise unusable(path, error) from error
    network.eval()
    return TrainedModel(path, task, model, tuple(classes), preprocessing, network, settings)


def unusable(path: Path, error: Exception) -> CheckpointError:
    """Return what to raise if no network can be made of a checkpoint's settings."""
    reason = shorten(str(error), 400, placeholder=" ...") or type(error).__name__
    return CheckpointError(f"{path} cannot be used: {reason}")


def load_task(checkpoint: Path, *tasks: Task) -> TrainedModel:
    """Load a checkpoint of one of these tasks.

    Raises:
        CheckpointError: see `load`; or the checkpoint is of another task.
    """
    trained = load(checkpoint)
    if trained.task not in tasks:
        raise CheckpointError(
            f"{checkpoint} is a checkpoint of {trained.task}, this needs one of {' or '.join(tasks)}"
        )
    return trained


def task_of(settings: Mapping[str, Any]) -> Task:
    """Return the task of a checkpoint's settings."""
    if "head" in settings:
        return "segmentation"
    if "detector" in settings:
        return "instance" if settings["detector"] == "maskrcnn" else "detection"
    return "classification"


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a learner's network, without the region head that a `RegionModel` adds.

    Raises:
        CheckpointError: weights outside the network.
    """
    foreign = [name for name in state if not name.startswith("network.")]
    if foreign:
        raise CheckpointError(f"it holds weights outside the network, such as {foreign[0]}")
    weights = {name.removeprefix("network."): value for name, value in state.items()}
    inner = {name: value for name, value in weights.items() if not name.startswith("region_head.")}
    if inner and all(name.startswith("backbone.") for name in inner):
        return {name.removeprefix("backbone."): value for name, value in inner.items()}
    return weights


def _load_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a network with a checkpoint's weights; every key, shape and kind of number must be its own."""
    weights, expected = backbone_weights(state), network.state_dict()
    keys = compare_keys(weights, expected)
    if not keys.same:
        raise CheckpointError(f"its weights are those of another network: {keys}")
    for name, value in weights.items():
        if value.is_floating_point() != expected[name].is_floating_point() or value.is_complex():
            raise CheckpointError(f"its weight {name} is {value.dtype}, expected {expected[name].dtype}")
    network.load_state_dict(weights)


def preprocessing_of(settings: Mapping[str, Any], task: Task = "classification") -> Preprocessing:
    """Return the preprocessing in a checkpoint's settings; raise ValueError for one that cannot be."""
    size: Any = settings.get("image_size")
    if task in ("detection", "instance") and isinstance(size, list) and size:
        size = size[-1]  # training draws one of several, evaluation takes the last
    if type(size) is not int or not 0 < size <= LARGEST_SIZE:
        raise CheckpointError(f"its image_size must be 1 to {LARGEST_SIZE} pixels, got {size!r}")
    colors = _entry(settings, "data" if task == "classification" else "backbone", dict)
    mean = three_numbers(_entry(colors, "mean", list, float, int), "mean")
    std = three_numbers(_entry(colors, "std", list, float, int), "std")
    if min(std) <= 0:
        raise CheckpointError(f"its std must be > 0, got {std}")
    if task != "classification":
        return Preprocessing(size, mean, std, size)
    resize, interpolation = colors.get("resize"), colors.get("interpolation", "bilinear")
    if resize is None:  # earlier versions did not write it
        resize = evaluation_resize(size)
    if type(resize) is not int or not size <= resize <= 8 * size:
        raise CheckpointError(f"its resize must be {size} to {8 * size} pixels, got {resize!r}")
    if interpolation not in INTERPOLATIONS:
        raise CheckpointError(
            f"its interpolation must be {' or '.join(INTERPOLATIONS)}, got {interpolation!r}"
        )
    return Preprocessing(size, mean, std, resize, interpolation)


def _entry(table: Mapping[str, Any], name: str, kind: type, *items: type) -> Any:
    """Return an entry of a table; raise CheckpointError unless it, and each of its items, has the type."""
    if name not in table:
        raise CheckpointError(f"its settings have no {name}")
    value: Any = table[name]
    if kind is list and isinstance(value, tuple):
        value = list(value)
    if type(value) is not kind:
        raise CheckpointError(f"its {name} is {type(value).__name__}, expected {kind.__name__}")
    if items and (not value or any(type(item) not in items for item in table[name])):
        raise CheckpointError(f"its {name} must be a list of {items[0].__name__}")
    return value
