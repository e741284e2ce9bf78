"""Where trained networks look: activation maps of several checkpoints side by side on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from recursivemix.data.augment import colour_scale, evaluation_transform, normalise
from recursivemix.data.decode import as_rgb, open_image_file
from recursivemix.data.formats.digits import digits
from recursivemix.evaluation.activation import Method, activation_maps, deciding_map
from recursivemix.models.feature_map import as_logits, evaluating
from recursivemix.models.trained import load_task
from recursivemix.report.cells import Cell, Cells, Theme, as_grid, check_out, enlarged, short, write_cells
from recursivemix.report.overlays import draw_heat
from recursivemix.report.page import Page, Section, render
from recursivemix.training.atomic_write import write_text
from recursivemix.training.devices import check_device
from recursivemix.training.settings import Device

MOST_IMAGES = 64


@dataclass(frozen=True)
class Looked:
    """A trained backbone, in eval mode, and how it wants its images."""

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    """What it was trained on, as `recursivemix fit` calls it."""

    def inputs(self, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) of (3, H, W) uint8 pictures: as bytes, and as the network takes them."""
        prepare = evaluation_transform(self.image_size)
        prepared = torch.stack([prepare(picture) for picture in pictures])
        device = next(self.network.parameters()).device
        colours = colour_scale(self.mean, self.std, device)
        return prepared, normalise(prepared.to(device), colours)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """(N, K) on the CPU."""
        with evaluating(self.network):
            return as_logits(self.network(inputs)).float().softmax(1).cpu()


def read_looked(checkpoint: Path, name: str, device: Device = "cpu") -> Looked:
    """The backbone of a checkpoint of ``recursivemix fit``.

    Raises:
        ValueError: no such checkpoint.
    """
    trained = load_task(checkpoint, "classification")
    trained.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Looked(
        name=name,
        network=trained.network,
        classes=trained.classes,
        image_size=trained.preprocessing.size,
        mean=trained.preprocessing.mean,
        std=trained.preprocessing.std,
        dataset=str(trained.settings["data"]["dataset"]),
    )


def explain(
    checkpoint: list[Path],
    images: Path | None = None,
    method: Method = "gradcam",
    classes: list[str] | None = None,
    top: int = 2,
    count: int = 6,
    layer: str | None = None,
    theme: Theme = "light",
    device: Device = "auto",
    out: Path = Path("explained.png"),
) -> tuple[Path, list[str]]:
    """Draw where networks look: a row an image, a column a checkpoint and class.

    Args:
        checkpoint: File written by recursivemix fit; give the option several times to compare, for networks
            of the same classes.
        images: Folder of images, searched with its folders; one whose folder is called as a class is known
            to be of it. Default: held-out digits, for networks trained on the digits.
        method: cam (Zhou et al., for networks that classify the mean of their last map), or one of
            pytorch-grad-cam: gradcam, gradcam++, hirescam, layercam, xgradcam, eigencam, scorecam.
        classes: Name of a class to explain; give the option several times for more. Default: for each image
            its own, where that is known, then those that the networks together think likeliest.
        top: How many these are.
        count: Images at most, spread over the folder.
        layer: Submodule that returns the feature map. Default: found, and said.
        theme: light or dark, of a PNG; a page follows the reader's.
        device: cpu, gpu, or auto for what is there.
        out: File to write: .png or .html.

    Returns:
        The file, and for each checkpoint a line that says which feature map was taken.

    Raises:
        ValueError: checkpoints, images, classes or a file that can't be used.
    """
    check_out(out, (".png", ".html"))
    check_device(device)
    if not checkpoint:
        raise ValueError("--checkpoint: name one or more")
    if not 1 <= count <= MOST_IMAGES:
        raise ValueError(f"--count must be in 1..{MOST_IMAGES}, got {count}")
    looked = [
        read_looked(path, name, device)
        for path, name in zip(checkpoint, distinct_names(checkpoint), strict=True)
    ]
    known = looked[0].classes
    for other in looked[1:]:
        if other.classes != known:
            raise ValueError(
                f"{other.name} knows {len(other.classes)} classes, {looked[0].name} others ({len(known)}): "
                f"only networks of the same classes can stand side by side"
            )
    if not 1 <= top <= len(known):
        raise ValueError(f"--top must be in 1..{len(known)}, the number of classes, got {top}")
    unknown = [name for name in classes or () if name not in known]
    if unknown:
        raise ValueError(
            f"--classes: no class is called {', '.join(unknown)}; there are {', '.join(known)}"
        )
    pictures, truths = pictures_of(images, looked[0], count)
    inputs = [one.inputs(pictures) for one in looked]
    probabilities = [one.probabilities(x) for one, (_, x) in zip(looked, inputs, strict=True)]
    if classes:
        chosen = torch.tensor([known.index(name) for name in classes]).expand(len(pictures), -1)
    else:
        together = torch.stack(probabilities).mean(0)
        for i, truth in enumerate(truths):
            if truth is not None:
                together[i, known.index(truth)] = 2  # comes first
        chosen = together.topk(top).indices  # (N, shown)
    columns = [[image_cell(p, t) for p, t in zip(inputs[0][0], truths, strict=True)]]
    heads = ["image"]
    for one, (shown, x), scores in zip(looked, inputs, probabilities, strict=True):
        for place in range(chosen.shape[1]):
            maps = activation_maps(
                one.network, x, chosen[:, place].to(x.device), method=method, layer=layer
            )
            columns.append(
                [
                    map_cell(shown[i], maps[i], known, scores[i], int(chosen[i, place]))
                    for i in range(len(pictures))
                ]
            )
            heads.append(one.name if place == 0 else "")
    rows = tuple(zip(*columns, strict=True))
    cells = Cells(f"What speaks for a class, by {method}", tuple(heads), rows, ("",) * len(rows))
    said = []
    for one in looked:
        found = deciding_map(one.network, (one.image_size, one.image_size), layer)
        said.append(f"{one.name}: {found.name} ({found.layout}, {found.channels} channels)")
    if out.suffix.lower() == ".png":
        write_cells(cells, out, theme)
    else:
        write_text(out, render(explained_page(cells, said)))
    return out, said


def explained_page(cells: Cells, said: list[str]) -> Page:
    """The page of the maps."""
    text = [
        "Bright yellow speaks most for the class under the picture, dark blue not at all; every map is "
        "scaled by itself. The percentage is what the network gives the class.",
        f"Feature maps: {'; '.join(said)}.",
    ]
    return Page(
        title="Where the networks look",
        answer=cells.title,
        facts="One row an image, one column a checkpoint and class.",
        labels=(),
        sections=[Section("Maps", text, grids=[as_grid(cells)])],
    )


def pictures_of(images: Path | None, looked: Looked, count: int) -> tuple[list[Tensor], list[str | None]]:
    """(3, H, W) uint8 pictures spread over a folder, and of each its class, where its folder tells."""
    if images is None:
        if looked.dataset != "digits":
            raise ValueError(
                f"{looked.name} was not trained on the digits: name a folder with --images DIR"
            )
        held_out = digits().evaluation
        places = [i * len(held_out) // count for i in range(min(count, len(held_out)))]
        pairs = [held_out[place] for place in places]
        return [picture for picture, _ in pairs], [looked.classes[label] for _, label in pairs]
    if not images.is_dir():
        raise ValueError(f"--images: there is no folder {images}")
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise ValueError(f"--images: {images} holds no images ({', '.join(IMG_EXTENSIONS)})")
    few = min(count, len(files))
    pictures, truths = [], []
    for file in (files[i * len(files) // few] for i in range(few)):
        with open_image_file(file) as source:
            pictures.append(as_rgb(source))
        truths.append(file.parent.name if file.parent.name in looked.classes else None)
    return pictures, truths


def distinct_names(checkpoints: list[Path]) -> list[str]:
    """What to call checkpoints: the shortest ends of their paths that tell them apart.

    ``a/checkpoints/last.ckpt`` and ``b/checkpoints/last.ckpt`` are a and b.
    """
    paths = [path.absolute().with_suffix("") for path in checkpoints]
    runs = [path.parent.parent.name if path.parent.name == "checkpoints" else path.name for path in paths]
    if len(set(runs)) == len(runs):
        return runs
    both = [f"{run}, {path.name}" for run, path in zip(runs, paths, strict=True)]
    if len(set(both)) == len(both):
        return both
    return [f"{name} ({i})" for i, name in enumerate(both, start=1)]


def image_cell(picture: Tensor, truth: str | None) -> Cell:
    """The image as the first network gets it."""
    return Cell(enlarged(picture)[0], (short(truth, 28) if truth else "", ""))


def map_cell(picture: Tensor, heat: Tensor, names: tuple[str, ...], scores: Tensor, label: int) -> Cell:
    """A map over its image; what the network says of the class, and which one it says first."""
    best = int(scores.argmax())
    said = (
        "its first choice" if best == label else f"first: {short(names[best])} {100 * scores[best]:.0f} %"
    )
    lines = (f"{short(names[label], 20)} {100 * scores[label]:.1f} %", said)
    return Cell(draw_heat(enlarged(picture)[0], heat), lines)
