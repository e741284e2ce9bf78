"""What stands on the page of a transfer comparison, from ``transfer.json`` and the pictures beside it."""

from __future__ import annotations

from pathlib import Path

from recursivemix.report.page import Page, Section, Strip, Table, render
from recursivemix.report.sections import (
    Comparison,
    learning_section,
    methods_section,
    pairs_section,
    repeat_section,
)
from recursivemix.report.words import mean_of, number
from recursivemix.tasks import METRIC_NAMES


def build_page(comparison: Comparison, pictures: Path) -> str:
    """The page of a transfer comparison.

    Args:
        comparison: what `recursivemix.compare.transfer_compare.collect` gives.
        pictures: the folder of the predictions; what is missing is left out.
    """
    data, before, seeds = comparison["data"], comparison["pretraining"], len(comparison["seeds"])
    score = comparison["score"]
    epochs = comparison["epochs"]
    facts = (
        f"{comparison['task'].capitalize()} on {Path(data['name']).name}: {data['train_images']:,} "
        f"training images, measured on {data['evaluation_images']:,} {data['evaluation_split']} images; "
        f"{epochs['transfer']} epochs. Backbones: {before['model']} trained on {before['name']} "
        f"({before['train_images']:,} images of {before['image_size']} pixels, {epochs['pretraining']} "
        f"epochs), {seeds} {'seed' if seeds == 1 else 'seeds'}; baseline {comparison['baseline']}. Values "
        f"are of the last epoch, intervals are 95 %."
    )
    notices = []
    if comparison["unfinished"]:
        notices.append(
            f"Not finished: {', '.join(comparison['unfinished'])}. What stands here is of the other runs; "
            "the same command goes on."
        )
    if seeds < 2:
        notices.append("One seed has no interval: nothing here tells methods apart. Run more --seeds.")
    curves = (
        (
            score,
            f"{METRIC_NAMES[score]} by epoch, %",
            "Mean over seeds; the band is its 95 % interval.",
            True,
        ),
        ("loss", "Training loss by epoch", "With dense mixing it is of mixed images.", False),
    )
    sections = [
        methods_section(comparison),
        pairs_section(comparison, [score, "pretrain_acc1"]),
        learning_section(comparison, curves),
        classes_section(comparison),
        predictions_section(comparison, pictures),
        repeat_section(comparison, "transfer.yaml, for recursivemix transfer compare --config"),
    ]
    return render(
        Page(
            title="Which backbone helps downstream",
            answer=comparison["answer"],
            facts=facts,
            labels=[method["label"] for method in comparison["methods"]],
            sections=[section for section in sections if section is not None],
            notices=notices,
        )
    )


def classes_section(comparison: Comparison) -> Section | None:
    """The score by class."""
    methods = comparison["methods"]
    rows = []
    for name in comparison["data"]["classes"]:
        values = [mean_of(method, "per_class", name) for method in methods]
        if any(value is not None for value in values):
            rows.append([name, *(number(value, 1) for value in values)])
    if not rows:
        return None
    what = "IoU" if comparison["score"] == "miou" else METRIC_NAMES[comparison["score"]]
    table = Table(f"{what} by class (%)", ["Class", *(method["label"] for method in methods)], rows)
    few = len(rows) <= 30
    return Section("Classes", tables=[table] if few else [], folded=[] if few else [table])


def predictions_section(comparison: Comparison, pictures: Path) -> Section | None:
    """Annotated and predicted, of each method's first seed."""
    strips = [
        Strip(method["label"], file.read_bytes(), [])
        for method in comparison["methods"]
        if (file := pictures / f"predictions-{method['label']}.jpg").is_file()
    ]
    if not strips:
        return None
    text = "The same images for all, of the measured split: annotated above, predicted below, first seed."
    return Section("What the networks see", text=[text], strips=strips)
