"""Build the page of a comparison from ``comparison.json`` and the pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recursivemix.data.printable import counted
from recursivemix.training.plain_file import read_json

from .page import Page, Section, Strip, render
from .probes import probe_sections
from .sections import (
    Comparison,
    classes_section,
    cost_section,
    learning_section,
    methods_section,
    pairs_section,
    repeat_section,
)
from .statistics import LEAST_SEEDS
from .words import at


def build_page(comparison: Comparison, pictures: Path) -> str:
    """Return the page as HTML; pictures that their folder lacks are left out."""
    sections = [
        methods_section(comparison),
        pairs_section(comparison),
        cost_section(comparison),
        learning_section(comparison),
        *probe_sections(comparison),
        classes_section(comparison),
        *picture_sections(comparison, pictures),
        repeat_section(comparison),
    ]
    helps = "backbone helps downstream" if comparison["pretraining"] else "mixing method helps"
    return render(
        Page(
            title=f"Which {helps}?",
            answer=comparison["answer"],
            facts=facts(comparison),
            labels=[method["label"] for method in comparison["methods"]],
            sections=[section for section in sections if section is not None],
            notices=notices(comparison),
        )
    )


def facts(comparison: Comparison) -> str:
    """Describe data, network and seeds."""
    data, before = comparison["data"], comparison["pretraining"]
    words = (
        f"{comparison['task'].capitalize()} on {Path(data['name']).name}: {data['train_images']:,} "
        f"training images of {len(data['classes'])} classes, evaluated on "
        f"{data['evaluation_images']:,} {data['evaluation_split']} images; {comparison['model']}, "
        f"{counted(comparison['epochs'], 'epoch')}, {counted(len(comparison['seeds']), 'seed')}; baseline "
        f"{comparison['baseline']}."
    )
    if before is not None:
        words += (
            f" Backbones were trained on {before['name']}: {before['train_images']:,} images of "
            f"{before['image_size']} pixels, {counted(before['epochs'], 'epoch')}."
        )
    return f"{words} Values are of the last epoch; intervals are 95 %."


def notices(comparison: Comparison) -> list[str]:
    """Return what a reader must know before the numbers."""
    lines = []
    if comparison["unfinished"]:
        lines.append(
            f"Not finished: {', '.join(comparison['unfinished'])}. This page shows the other runs; run the "
            "same command again to finish."
        )
    most = max(len(method["runs"]) for method in comparison["methods"])
    if most < LEAST_SEEDS:
        lines.append(
            f"Fewer than {LEAST_SEEDS} seeds are finished: there are no intervals over seeds, and no "
            f"difference of methods is shown. Run at least --seeds {LEAST_SEEDS}."
        )
    return lines


def picture_sections(comparison: Comparison, pictures: Path) -> list[Section]:
    """Show mixed batches, activation maps and predictions, as far as there are pictures."""
    labels = [method["label"] for method in comparison["methods"]]
    gallery, cams = (_json(pictures / name) for name in ("gallery.json", "cams.json"))
    mixed = _strips(labels, pictures, "gallery", {k: at(gallery, k, "captions") for k in labels})
    maps = _strips(labels, pictures, "cams", {k: at(cams, "methods", k) for k in labels})
    if maps and (images := _picture(pictures, "cams-images")) is not None:
        maps.insert(0, Strip("Images and their classes", images, at(cams, "images") or []))
    predictions = _strips(labels, pictures, "predictions", {})
    sections = (
        (
            "What each method makes of the same images",
            "A training batch after a few steps, with the share of each class in the label. Of 16 draws, "
            "the one whose own share is nearest to 0.7.",
            mixed,
        ),
        (
            "What the networks look at",
            "Class activation maps (Grad-CAM) of the true class, first seed: yellow is the strongest "
            "evidence for it. Below each map, the predicted class and its probability.",
            maps,
        ),
        (
            "What the networks predict",
            "The same evaluation images for all methods, first seed: annotations above, predictions below.",
            predictions,
        ),
    )
    return [Section(title, text=[text], strips=strips) for title, text, strips in sections if strips]


def _strips(labels: list[str], pictures: Path, kind: str, captions: dict[str, Any]) -> list[Strip]:
    files = [(label, _picture(pictures, f"{kind}-{label}")) for label in labels]
    return [Strip(label, file, captions.get(label) or []) for label, file in files if file is not None]


def _picture(folder: Path, name: str) -> bytes | None:
    files = [folder / f"{name}{suffix}" for suffix in (".png", ".jpg")]
    return next((file.read_bytes() for file in files if file.is_file()), None)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
