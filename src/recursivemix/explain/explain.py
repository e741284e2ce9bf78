"""Draw where trained networks look. Torch is imported when the drawing starts."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from recursivemix.data.printable import first_few
from recursivemix.evaluation.names import Method
from recursivemix.report.names import Theme
from recursivemix.training.settings import Device

from .out_file import check_out

MOST_IMAGES = 64


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
    """Draw where networks look: one row per image, one column per checkpoint and class.

    Args:
        checkpoint: File written by recursivemix fit; repeat the option to compare networks of the same
            classes.
        images: Folder of images, searched recursively; a folder named as a class labels its images
            (default: held-out digits, for networks trained on the digits).
        method: cam (Zhou et al., for networks that classify the mean of their last map), or a method of
            pytorch-grad-cam: gradcam, gradcam++, hirescam, layercam, xgradcam, eigencam, scorecam.
        classes: Name of a class to explain; repeat the option for more (default: the image's own class, if
            it is known, then the most probable ones).
        top: Number of such default classes.
        count: Largest number of images, spread over the folder.
        layer: Submodule that returns the feature map (default: found and printed).
        theme: light or dark, for PNG; a page follows the reader's setting.
        device: cpu, gpu, or auto.
        out: File to write: .png or .html.

    Returns:
        The file, and one line per checkpoint that names its feature map.

    Raises:
        ValueError: checkpoints, images, classes or a file that cannot be used.
    """
    from .activation import describe_map, explained_cells, load_named, pictures_of, write_explained

    check_out(out, (".png", ".html"))
    if method not in get_args(Method):
        raise ValueError(f"--method must be one of {', '.join(get_args(Method))}, got {method}")
    if not 1 <= count <= MOST_IMAGES:
        raise ValueError(f"--count must be in 1..{MOST_IMAGES}, got {count}")
    models = load_named(checkpoint, device)
    known = models[0].trained.classes
    if not 1 <= top <= len(known):
        raise ValueError(f"--top must be in 1..{len(known)}, the number of classes, got {top}")
    unknown = [name for name in classes or () if name not in known]
    if unknown:
        raise ValueError(f"--classes must be some of {first_few(known, 20)}, got {', '.join(unknown)}")
    pictures, truths = pictures_of(images, models[0], count)
    cells = explained_cells(models, pictures, truths, classes, top, method, layer)
    lines = [describe_map(model, layer) for model in models]
    write_explained(cells, lines, theme, out)
    return out, lines
