"""The table of claims: what is published about RecursiveMix, and what the records in ``results/`` show.

Every verdict is computed from a record. For the claim that one method is better than another it is

* ``held``: the 95 % interval of the paired difference excludes zero in the claimed direction, and p,
  corrected for the number of methods of that comparison, is below 0.05;
* ``not held``: the interval excludes zero in the other direction, or lies below the published difference;
* ``not shown``: anything else, and every comparison with fewer than three seeds;
* ``not recorded``: the record lacks a method or the measure.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple, Protocol

from recursivemix.compare.records import read_comparison
from recursivemix.report.pairs import compare_all
from recursivemix.report.statistics import LEAST_SEEDS
from recursivemix.report.table import decimals, settled
from recursivemix.report.words import at, counted, p_words, with_interval

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
HELD, NOT_HELD, NOT_SHOWN, NOT_RECORDED = "held", "not held", "not shown", "not recorded"
SAME_COST = 1.02
"""A training step costs as much as without mixing up to this ratio: the goal of ``benchmarks/step.py``."""
OBJECTS = 2
"""An input is claimed to show more than this many objects."""
DATA_NAMES = {
    "new": "20 classes of CIFAR-100",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "explore": "CIFAR-100 (validation images)",
}
"""Names of data sets whose records hold the name of a folder."""


class Row(NamedTuple):
    """What one record shows of a claim."""

    verdict: str
    """One of the four, and after a colon the reason."""
    record: str
    compared: str = ""
    measured: str = ""
    p: str = ""
    n: str = ""
    regime: str = ""

    @property
    def kind(self) -> str:
        """The verdict without its reason."""
        return self.verdict.partition(":")[0]


class Evidence(Protocol):
    """Something that a record may show."""

    def rows(self) -> list[Row]: ...


@dataclass(frozen=True)
class Better:
    """A method is better than another in one metric of a comparison.

    Args:
        folder: of the comparison, below ``results/``.
        metric: of ``comparison.json``.
        method, baseline: labels of the comparison.
        published: difference of the two that is published for this data set, in the unit of the metric.
    """

    folder: str
    metric: str
    method: str = "recursivemix"
    baseline: str = "none"
    published: float | None = None

    def rows(self) -> list[Row]:
        record = compared(self.folder, self.baseline)
        where = f"results/{self.folder}"
        if isinstance(record, str):
            return [Row(f"{NOT_RECORDED}: {record}", where)]
        key = (self.method, self.metric)
        pair = next((pair for pair in record["pairs"] if (pair["method"], pair["metric"]) == key), None)
        if pair is None:
            return [Row(f"{NOT_RECORDED}: the comparison did not measure it", where)]
        about = record["metrics"][self.metric]
        unit = {"%": " points"}.get(about["unit"], "")
        return [
            Row(
                verdict(pair, about["higher_is_better"], self.published),
                where,
                f"{named(record, self.method)} - {named(record, self.baseline)}",
                with_interval(pair, decimals(about), "+") + unit,
                p_words(pair["p_corrected"]),
                f"{counted(pair['n'], 'seed')}, {sample(record, self.metric)}",
                regime(record),
            )
        ]


@dataclass(frozen=True)
class SameNetwork:
    """The network has as many parameters at inference as without mixing."""

    folder: str

    def rows(self) -> list[Row]:
        record = compared(self.folder, "none")
        assert not isinstance(record, str)
        costs = [
            [run["cost"] for run in method_of(record, label)["runs"]] for label in ("recursivemix", "none")
        ]
        ours, plain = (mean(cost["parameters_inference"] for cost in side) for side in costs)
        extra = mean(cost["parameters_training"] for cost in costs[0]) - ours
        return [
            Row(
                HELD if ours == plain else NOT_HELD,
                f"results/{self.folder}",
                "recursivemix - none, parameters at inference",
                f"{ours - plain:+,.0f}; {extra:,.0f} more in training",
                n=counted(len(costs[0]), "run"),
                regime=regime(record),
            )
        ]


@dataclass(frozen=True)
class SameCost:
    """A training step costs no more than without mixing: `SAME_COST` times, in time and in memory."""

    file: str

    def rows(self) -> list[Row]:
        file = f"results/{self.file}"
        if not (RESULTS / self.file).is_file():
            return [Row(f"{NOT_RECORDED}: there is no record of a GPU", file)]
        record = json.loads((RESULTS / self.file).read_text())
        plain, ours = (next(r for r in record["rows"] if r["name"] == n) for n in ("plain", "recursivemix"))
        ratios = [a / b for a, b in zip(ours["samples_s"], plain["samples_s"], strict=True)]
        low, high = median_interval(ratios)
        time = HELD if high <= SAME_COST else NOT_HELD if low > SAME_COST else NOT_SHOWN
        memory = 1 + ours["extra_peak_bytes"] / plain["peak_bytes"]
        settings = record["settings"]
        where = (
            f"{settings['model']}, batch {settings['batch_size']}, {settings['image_size']} pixels, "
            f"{record['hardware'].get('gpu') or record['hardware']['processor']}"
        )
        return [
            Row(
                time, file, "recursivemix / none, time of a step",
                f"{median(ratios):.3f} ({low:.3f} to {high:.3f})", n=counted(record["n"], "round"), regime=where,
            ),
            Row(
                HELD if memory <= SAME_COST else NOT_HELD, file, "recursivemix / none, peak memory of a step",
                f"{memory:.3f}", n="1 reading", regime=where,
            ),
        ]  # fmt: skip


@dataclass(frozen=True)
class MoreObjects:
    """An input shows more than two images on average."""

    file: str

    def rows(self) -> list[Row]:
        record = json.loads((RESULTS / self.file).read_text())
        return [
            Row(
                HELD if average > OBJECTS else NOT_HELD, f"results/{self.file}",
                f"images with a label weight above {weight}", f"{average:.2f} on average",
                n=f"{record['batches']:,} draws", regime=f"{record['size']} pixels, no training",
            )
            for weight, average in record["sources_above"].items()
            if float(weight) >= 0.01
        ]  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A claim and what may show it.

    Args:
        name: in a few words; the heading of its section.
        words: the claim in a sentence, with what is published and where.
        evidence: what is looked up; none if the claim cannot be measured here.
        why_not: the reason, if there is no evidence.
    """

    name: str
    words: str
    evidence: Sequence[Evidence] = ()
    why_not: str = ""


FROM_SCRATCH = ("compare/cifar10", "compare/ablation", "compare/digits", "where-it-pays/confirm")
FINE_TUNED = ("finetune/50", "finetune/100", "finetune/500")
PUBLISHED = {
    "cifar10": 1.5, "compare/cifar10": 1.5, "compare/ablation": 1.5, "where-it-pays/confirm": 3.2,
}  # fmt: skip
"""The published gain in accuracy over no mixing on the data set of a comparison, from docs/paper.md."""


def everywhere(metric: str, baseline: str = "none") -> list[Better]:
    """Return RecursiveMix against a baseline in all comparisons of classifiers that may have both."""
    folders = [
        name
        for name in ("compare/cifar10", "cifar10", *FROM_SCRATCH[1:], *FINE_TUNED)
        if not (name == "compare/ablation" and baseline == "cutmix")  # it has no CutMix
        and not (name == "cifar10" and metric != "acc1_last")  # made before there were other measures
    ]
    return [
        Better(
            folder,
            metric,
            baseline=baseline,
            published=PUBLISHED.get(folder) if (metric, baseline) == ("acc1_last", "none") else None,
        )
        for folder in folders
    ]


NOT_IN_PAPER = (
    "It is not among the published claims that could be read; it is asked of every mixing method."
)
CLAIMS = (
    Claim(
        "More accurate than no mixing",
        "Published: about 1.5 points more on CIFAR-10 (PyramidNet-200, 300 epochs, secondary), 3.2 more on CIFAR-100 "
        "(ResNet-50), 79.20 % against 76.32 % on ImageNet (ResNet-50, 300 epochs).",
        everywhere("acc1_last"),
    ),
    Claim(
        "More accurate than CutMix",
        "Published: 79.20 % against 78.60 % on ImageNet (ResNet-50, 300 epochs).",
        everywhere("acc1_last", "cutmix"),
    ),
    Claim(
        "The memory helps",
        "The history as partner gives a higher accuracy than another image of the same batch. Published without figures. "
        "Both compared methods are without the consistency loss.",
        [Better("compare/ablation", "acc1_last", "no-consistency", "batch-partner")],
    ),
    Claim(
        "Resizing helps",
        "Pasting the whole image at a smaller size gives a higher accuracy than a cut part of it. Published without figures.",
        [Better("compare/ablation", "acc1_last", baseline="cut")],
    ),
    Claim(
        "The consistency loss helps",
        "It gives a higher accuracy than none. Published without figures.",
        [Better("compare/ablation", "acc1_last", baseline="no-consistency")],
    ),
    Claim(
        "Several objects in an input",
        "Most inputs show more than two objects, up to about five (secondary). The records hold the mean number of images by "
        "the least weight in the label that counts, not the share of the inputs.",
        [MoreObjects("statistics-32.json"), MoreObjects("statistics-224.json")],
    ),
    Claim(
        "Several objects are recognized",
        "Four test images in one picture: the share of their classes among the four highest predictions. "
        + NOT_IN_PAPER,
        everywhere("multiple_top4"),
    ),
    Claim(
        "Activation maps localize better",
        "Published without figures. Measured as the share of activation maps whose maximum lies in the right quarter of a "
        "picture of four.",
        everywhere("localisation"),
    ),
    Claim(
        "Predictions are better calibrated",
        "Expected calibration error; lower is better. " + NOT_IN_PAPER,
        everywhere("ece"),
    ),
    Claim(
        "Robust to corruption",
        "Mean accuracy under six corruptions at five severities. " + NOT_IN_PAPER,
        everywhere("corruption_mean"),
    ),
    Claim(
        "Transfer to detection, against no mixing",
        "Published: AP 41.5 against 39.4 on COCO (ATSS, ResNet-50; the latter with weights of another recipe).",
        [Better("transfer/bccd", "ap")],
    ),
    Claim(
        "Transfer to detection, against CutMix",
        "Published: AP 41.5 against 40.1 on COCO (ATSS, ResNet-50).",
        [Better("transfer/bccd", "ap", baseline="cutmix")],
    ),
    Claim(
        "Transfer to segmentation, against no mixing",
        "Published: mIoU 42.30 against 40.40 on ADE20K (UPerNet, ResNet-50).",
        [Better("transfer/camvid", "miou")],
    ),
    Claim(
        "Transfer to segmentation, against CutMix",
        "Published: mIoU 42.30 against 41.24 on ADE20K (UPerNet, ResNet-50).",
        [Better("transfer/camvid", "miou", baseline="cutmix")],
    ),
    Claim(
        "The cost is that of no mixing",
        f"Published without figures. Held here means at most {SAME_COST:g} times the time (the whole interval of the median over paired "
        "rounds) and the peak memory of a training step, and the same network at inference.",
        [SameCost("step.json"), SameNetwork("compare/cifar10"), SameCost("gpu/step.json")],
    ),
    Claim(
        "CIFAR-10 with PyramidNet-200",
        "Published: 97.65 % at the best epoch, mean of three runs of 300 epochs.",
        why_not="a run took about 22 hours on 2 GPUs; there is a recipe, which was not run",
    ),
    Claim(
        "CIFAR-100 with ResNet-18",
        "Published: 81.36 % after 200 epochs, protocol unknown (secondary).",
        why_not="200 epochs of 50,000 images need a GPU; benchmarks/gpu.sh runs the recipe",
    ),
    Claim(
        "ImageNet with ResNet-50",
        "Published: 79.20 % at the best of 300 epochs.",
        why_not="the run took 70.8 hours on 8 GPUs; there is a recipe, which was not run",
    ),
    Claim(
        "COCO and ADE20K with ResNet-50",
        "Published: AP 41.5 and mIoU 42.30, with backbones trained on ImageNet.",
        why_not="both need the backbone trained on ImageNet and 8 GPUs; there are recipes, which were not run",
    ),
)


@cache
def compared(folder: str, baseline: str) -> dict[str, Any] | str:
    """Return the record of a comparison with the differences to ``baseline``, or what it lacks."""
    path = RESULTS / folder
    if folder == "cifar10":
        return single_runs(path, baseline)
    if not any((path / name).is_file() for name in ("comparison.json", "transfer.json")):
        return "the runs are not finished"
    record = read_comparison(path)
    labels = [method["label"] for method in record["methods"]]
    missing = [label for label in ("recursivemix", baseline) if label not in labels]
    if missing:
        return f"no run of {' and '.join(missing)} is finished"
    return read_comparison(path, baseline)


def single_runs(path: Path, baseline: str) -> dict[str, Any]:
    """Return records of single runs in the form of a comparison."""
    records = [json.loads(file.read_text()) for file in sorted(path.glob("*.json"))]
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    methods: dict[str, dict[str, Any]] = {}
    for record in records:
        label = record["config"]["mixer"]
        score = record.get("score_last", record.get("acc1_last"))
        runs[label][record["seed"]] = {"values": {"acc1_last": score}, "epochs": record["epochs"]}
        methods[label] = {
            "label": label,
            "options": {"mixer_options": record["config"]["mixer_options"]},
            "runs": list(runs[label].values()),
        }
    metrics = {"acc1_last": {"unit": "%", "higher_is_better": True}}
    first = records[0]
    return {
        "methods": list(methods.values()), "metrics": metrics, "pairs": compare_all(runs, baseline, metrics),
        "data": first["data"] | {"name": "cifar10"}, "model": first["config"]["model"],
        "epochs": first["config"]["epochs"], "pretraining": None,
    }  # fmt: skip


def verdict(pair: dict[str, Any], higher_is_better: bool, published: float | None = None) -> str:
    """Return what a paired difference says of the claim that it is a gain; see the rule above."""
    if pair["low"] is None or pair["n"] < LEAST_SEEDS:
        return f"{NOT_SHOWN}: {counted(pair['n'], 'seed')}, {LEAST_SEEDS} are needed"
    ends = (pair["low"], pair["high"])
    low, high = ends if higher_is_better else (-ends[1], -ends[0])
    if low > 0:
        return HELD if settled(pair) else f"{NOT_SHOWN}: not significant after the correction"
    if high < 0:
        return NOT_HELD
    if published is not None and high < published:
        return f"{NOT_HELD}: less than the published {published:g}"
    return NOT_SHOWN


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with a probability of at least 95 %."""
    values, n = sorted(values), len(values)
    outside, k = 2 * 0.5**n, 0
    while outside + 2 * comb(n, k + 1) * 0.5**n <= 0.05:
        k += 1
        outside += 2 * comb(n, k) * 0.5**n
    return values[k], values[n - 1 - k]


def method_of(record: dict[str, Any], label: str) -> dict[str, Any]:
    """Return a method of a comparison, with its runs."""
    (method,) = (method for method in record["methods"] if method["label"] == label)
    return dict(method)


def named(record: dict[str, Any], label: str) -> str:
    """Return the label of a method with its settings."""
    options = dict(method_of(record, label)["options"])
    options |= options.pop("mixer_options", {})
    options.pop("mixer", None)
    words = ", ".join(f"`{key}={value}`" for key, value in options.items())
    return f"{label} ({words})" if words else label


SAMPLES = {
    "multiple_top4": ("pictures of four", "multiple", "images"),
    "localisation": ("activation maps", "localisation", "maps"),
    "corruption_mean": ("images", "corruption_images"),
}
"""What a metric is measured on, if not on all test images, and where an evaluation holds the number."""


def sample(record: dict[str, Any], metric: str) -> str:
    """Return on how many images a metric is measured."""
    if metric not in SAMPLES:
        return f"{record['data']['evaluation_images']:,} images"
    name, *path = SAMPLES[metric]
    count = at(record["methods"][0]["runs"][0], "evaluation", *path)
    return f"{count:,} {name}"


def regime(record: dict[str, Any]) -> str:
    """Return data, network and budget of a comparison, and how far ``none`` fits its training images."""
    data, before = record["data"], record["pretraining"]
    name = Path(data["name"]).name
    words = f"{DATA_NAMES.get(name, name)}, {data['train_images']:,} images, {record['model']}"
    if before is not None:
        return (
            f"{words} trained on {before['name']} for {before['epochs']} epochs with the method, then "
            f"{record['epochs']} epochs here"
        )
    tuned = " of fine-tuning" if is_fine_tuned(record) else ""
    accuracy, _ = fit_of_none(record)
    return (
        f"{words}, {record['epochs']} epochs{tuned}; none predicts {accuracy:.1f} % of its training images"
    )


def is_fine_tuned(record: dict[str, Any]) -> bool:
    """Return whether the networks of a comparison start from trained weights."""
    settings = record.get("config", {}).get("settings", {})
    return bool(settings.get("weights") or settings.get("pretrained"))


def fit_of_none(record: dict[str, Any]) -> tuple[float, float]:
    """Return accuracy in percent and loss of ``none`` in its last epoch, on augmented training images.

    Means over the seeds. The loss is that of training, with label smoothing if the run has it.
    """
    last = [run["epochs"][-1] for run in method_of(record, "none")["runs"]]
    return mean(one["acc_mixed"] for one in last), mean(one["loss_label"] for one in last)


def summary(rows: Sequence[Row]) -> str:
    """Return the verdict on a claim from what its records show."""
    kinds = Counter(row.kind for row in rows)
    measured = sum(kinds[kind] for kind in (HELD, NOT_HELD, NOT_SHOWN))
    if not measured:
        return "**not measured yet**"
    parts = [f"{kind} in {kinds[kind]}" for kind in (HELD, NOT_HELD, NOT_SHOWN) if kinds[kind]]
    word = HELD if kinds[HELD] else NOT_HELD if kinds[NOT_HELD] else NOT_SHOWN
    if kinds[HELD] and kinds[NOT_HELD]:
        word = "depends on the setting"
    return f"**{word}**: {', '.join(parts)} of {counted(measured, 'measurement')}"


def anchor(name: str) -> str:
    """Return the link to a heading."""
    kept = "".join(letter for letter in name.lower() if letter.isalnum() or letter in " -")
    return "#" + "-".join(kept.split())


def claims_table() -> str:
    """Return a verdict for every claim, and under it what each record shows."""
    lines = ["| claim | verdict |", "| --- | --- |"]
    sections = []
    for claim in CLAIMS:
        rows = [row for evidence in claim.evidence for row in evidence.rows()]
        said = summary(rows) if rows else f"**not measurable here**: {claim.why_not}"
        lines.append(f"| [{claim.name}]({anchor(claim.name)}) | {said} |")
        sections += ["", f"## {claim.name}", "", claim.words, "", f"Verdict: {said}."]
        sections += records_table(rows)
    return "\n".join(lines + sections)


def records_table(rows: Sequence[Row]) -> list[str]:
    """Return a table of what the records show, and a line on those that lack it."""
    measured = [row for row in rows if row.kind != NOT_RECORDED]
    lines = []
    if measured:
        lines += [
            "",
            "| compared | difference or value, 95 % interval | p | n | data and network | verdict | record |",
            "| --- " * 7 + "|",
        ]
        lines += [
            f"| {row.compared} | {row.measured} | {row.p} | {row.n} | {row.regime} | {row.verdict} | {row.record} |"
            for row in measured
        ]
    lacking: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.kind == NOT_RECORDED:
            lacking[row.verdict].append(row.record)
    for reason, records in lacking.items():
        lines += ["", f"{reason[0].upper()}{reason[1:]} ({', '.join(records)})."]
    return lines
