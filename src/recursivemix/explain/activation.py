"""Draw where trained networks look: activation maps of several checkpoints on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recursivemix.data.crop import evaluation_image
from recursivemix.data.decode import as_rgb, open_image_file
from recursivemix.data.formats.digits import digits
from recursivemix.data.formats.folder import image_files
from recursivemix.data.printable import first_difference
from recursivemix.evaluation.activation import activation_maps, deciding_map
from recursivemix.evaluation.names import Method
from recursivemix.evaluation.predict import network_inputs
from recursivemix.models.feature_map import as_logits, evaluating
from recursivemix.models.trained import TrainedModel, load_task
from recursivemix.report.cells import Cell, Cells, enlarged, short
from recursivemix.report.names import Theme
from recursivemix.report.overlays import draw_heat
from recursivemix.report.page import write_grid
from recursivemix.training.devices import check_device, device_type
from recursivemix.training.settings import Device


@dataclass(frozen=True)
class NamedModel:
    """A trained classifier and its name in the picture."""

    name: str
    trained: TrainedModel

    def inputs(self, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (N, 3, S, S) of (3, H, W) uint8 pictures: resized uint8, and normalized."""
        shape = self.trained.preprocessing.shape
        resized = torch.stack([evaluation_image(picture, *shape) for picture in pictures])
        return resized, network_inputs(self.trained, resized)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return (N, K) on the CPU."""
        with evaluating(self.trained.network):
            return self.trained.probabilities(as_logits(self.trained.network(inputs))).cpu()

    def map_cells(
        self,
        shown: Tensor,
        inputs: Tensor,
        scores: Tensor,
        classes: Tensor,
        method: Method,
        layer: str | None,
    ) -> list[Cell]:
        """Return the maps of one class per image, drawn over the images; see `activation_maps`.

        Args:
            shown, inputs: of `inputs`.
            scores: (N, K) probabilities.
            classes: (N,) class indices.
        """
        maps = activation_maps(
            self.trained.network, inputs, classes.to(inputs.device), method=method, layer=layer
        )
        return [
            map_cell(picture, heat, self.trained.classes, row, label)
            for picture, heat, row, label in zip(shown, maps, scores, classes.tolist(), strict=True)
        ]


def load_named(checkpoints: list[Path], device: Device) -> list[NamedModel]:
    """Load classifiers; raise ValueError unless there are any, all of the same classes."""
    check_device(device)
    if not checkpoints:
        raise ValueError("--checkpoint must name at least one file")
    models = [
        NamedModel(name, load_task(path, "classification").to(device_type(device)))
        for name, path in zip(distinct_names(checkpoints), checkpoints, strict=True)
    ]
    first = models[0]
    for other in models[1:]:
        names, others = first.trained.classes, other.trained.classes
        if others != names:
            raise ValueError(
                f"--checkpoint must name networks of the same classes: {first.name} has {len(names)}, "
                f"{other.name} has {len(others)}{first_difference(names, others)}"
            )
    return models


def describe_map(model: NamedModel, layer: str | None) -> str:
    """Return a network's name and its feature map's name, layout and channels."""
    size = model.trained.preprocessing.size
    feature_map = deciding_map(model.trained.network, (size, size), layer)
    return f"{model.name}: {feature_map.name} ({feature_map.layout}, {feature_map.channels} channels)"


def explained_cells(
    models: list[NamedModel],
    pictures: list[Tensor],
    truths: list[str | None],
    classes: list[str] | None,
    top: int,
    method: Method,
    layer: str | None,
) -> Cells:
    """Return the grid of maps; see `explain`."""
    known = models[0].trained.classes
    inputs = [model.inputs(pictures) for model in models]
    scores = [model.probabilities(x) for model, (_, x) in zip(models, inputs, strict=True)]
    if classes:
        chosen = torch.tensor([known.index(name) for name in classes]).expand(len(pictures), -1)
    else:
        mean = torch.stack(scores).mean(0)
        for i, truth in enumerate(truths):
            if truth is not None:
                mean[i, known.index(truth)] = 2  # above any probability
        chosen = mean.topk(top).indices  # (N, columns per model)
    columns = [
        [
            Cell(enlarged(picture)[0], (short(truth or "", 28), ""))
            for picture, truth in zip(inputs[0][0], truths, strict=True)
        ]
    ]
    heads = ["image"]
    for model, (shown, x), score in zip(models, inputs, scores, strict=True):
        for labels in chosen.unbind(1):
            columns.append(model.map_cells(shown, x, score, labels, method, layer))
            heads.append(model.name)
    rows = tuple(zip(*columns, strict=True))
    return Cells(f"Evidence for a class, by {method}", tuple(heads), rows, ("",) * len(rows))


def write_explained(cells: Cells, lines: list[str], theme: Theme, out: Path) -> None:
    """Write a PNG or a page, by the suffix; the page has ``lines``, which name the feature maps."""
    text = [
        "Bright yellow is the strongest evidence for the class under the picture, dark blue none; each map "
        "is scaled to its own range. The percentage is the predicted probability of the class.",
        f"Feature maps: {'; '.join(lines)}.",
    ]
    facts = "One row per image, one column per checkpoint and class."
    write_grid(cells, out, theme, title="Where the networks look", facts=facts, heading="Maps", text=text)


def pictures_of(
    images: Path | None, model: NamedModel, count: int
) -> tuple[list[Tensor], list[str | None]]:
    """Return (3, H, W) uint8 pictures spread over a folder, and the class that the folder names, if any."""
    known = model.trained.classes
    if images is None:
        if model.trained.settings["data"]["dataset"] != "digits":
            raise ValueError(f"{model.name} was not trained on the digits: name a folder with --images DIR")
        held_out = digits().evaluation
        chosen = [i * len(held_out) // count for i in range(min(count, len(held_out)))]
        return [held_out[i] for i in chosen], [known[int(held_out.labels[i])] for i in chosen]
    if not images.is_dir():
        raise ValueError(f"--images: there is no folder {images}")
    files = image_files(images, "--images:")
    few = min(count, len(files))
    pictures, truths = [], []
    for file in (files[i * len(files) // few] for i in range(few)):
        with open_image_file(file) as source:
            pictures.append(as_rgb(source))
        truths.append(file.parent.name if file.parent.name in known else None)
    return pictures, truths


def distinct_names(checkpoints: list[Path]) -> list[str]:
    """Name checkpoints by their runs, or by runs and files if these are not distinct.

    ``a/checkpoints/last.ckpt`` and ``b/checkpoints/last.ckpt`` become a and b.
    """
    paths = [path.absolute().with_suffix("") for path in checkpoints]
    runs = [path.parent.parent.name if path.parent.name == "checkpoints" else path.name for path in paths]
    if len(set(runs)) == len(runs):
        return runs
    both = [f"{run}, {path.name}" for run, path in zip(runs, paths, strict=True)]
    if len(set(both)) == len(both):
        return both
    return [f"{name} ({i})" for i, name in enumerate(both, start=1)]


def map_cell(picture: Tensor, heat: Tensor, names: tuple[str, ...], scores: Tensor, label: int) -> Cell:
    """Return the cell of a map, with the probability of its class and the most probable class."""
    best = int(scores.argmax())
    other = f"predicted: {short(names[best])} {100 * scores[best]:.0f} %"
    lines = (
        f"{short(names[label], 20)} {100 * scores[label]:.1f} %",
        "predicted" if best == label else other,
    )
    return Cell(draw_heat(enlarged(picture)[0], heat), lines)
