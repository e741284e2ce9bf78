"""Write the tables of the README and of ``results/README.md`` from the records in ``results/``, the lists of the
documentation from the registries of the package, and what the command line quotes from the records.

    python docs/make_tables.py           # rewrite
    python docs/make_tables.py --check   # fail if a table or list is out of date

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->``, a list between ``<!-- list: NAME -->``
and ``<!-- end list -->`` (in mkdocs.yml between ``# list: NAME`` and ``# end list``).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from claims import DATA_NAMES, RESULTS, ROOT, claims_table, fit_of_none, is_fine_tuned, method_of, named

from recursivemix.compare.records import read_comparison
from recursivemix.evaluation.probes import compared_metrics


def read(path: Path) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record


MIXER_ORDER = ("none", "mixup", "cutmix", "resizemix", "recursivemix")


def cifar10_table() -> str:
    """Last-epoch accuracy by mixer, over the seeds there are."""
    records = [read(path) for path in sorted((RESULTS / "cifar10").glob("*.json"))]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["config"]["mixer"]].append(record)
    if not records:
        return "No run is recorded yet."
    first = records[0]
    data, config = first["data"], first["config"]
    lines = [
        f"**CIFAR-10, {data['train_images']:,} training images**: {config['model']}, "
        f"{config['epochs']} epochs, batch {config['batch_size']}, equal budgets; all {data['evaluation_images']:,} test images. The "
        f"images are a JPEG copy: compare the rows with one another, not with published figures. Accuracy in "
        f"percent, mean ± standard deviation over seeds; NLL is the test loss.",
        "",
        "| mixer | settings | last epoch | each seed | best of the evaluated epochs | NLL, last epoch | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mixer in sorted(groups, key=MIXER_ORDER.index):
        runs = sorted(groups[mixer], key=lambda run: int(run["seed"]))
        last = [run.get("score_last", run.get("acc1_last")) for run in runs]
        options = ", ".join(f"`{k}={v}`" for k, v in runs[0]["config"]["mixer_options"].items())
        nll = mean(run["epochs"][-1]["val_loss"] for run in runs)
        lines.append(
            f"| {mixer} | {options} | {mean(last):.2f} ± {stdev(last):.2f} | "
            f"{' / '.join(f'{value:.2f}' for value in last)} | "
            f"{mean(run.get('score_best', run.get('acc1_best')) for run in runs):.2f} | {nll:.3f} | {len(runs)} |"
        )
    return "\n".join([*lines, "", source(first, "results/cifar10/")])


SHOWN = {metric.name: metric for metric in compared_metrics() if metric.short}
"""Metrics of a comparison that its table shows beside the accuracy."""


def comparisons_by_fit() -> list[dict[str, Any]]:
    """The classification comparisons with a run without mixing, the least fitted training images first.

    Each is the record of a comparison with ``train_accuracy`` and ``train_loss`` of ``none`` in its last epoch, as
    means over seeds, on augmented training images.
    """
    folders = [RESULTS / "compare" / name for name in ("ablation", "cifar10", "digits")]
    confirmed = ("confirm", "confirm-16/cifar10", "confirm-16/cifar100")
    folders += [RESULTS / "where-it-pays" / name for name in confirmed]
    records = []
    for folder in folders:
        if not (folder / "comparison.json").is_file():
            continue
        record = read_comparison(folder, "none")
        record["train_accuracy"], record["train_loss"] = fit_of_none(record)
        record["finished"] = len(method_of(record, "none")["runs"])
        record["gains"] = [
            pair for pair in record["pairs"] if pair["metric"].endswith(("acc1_last", "score_last"))
        ]
        records.append(record)
    return sorted(records, key=lambda record: record["train_accuracy"])


EVIDENCE = ROOT / "src" / "recursivemix" / "tasks" / "memorization.json"


def evidence() -> str:
    """Return the differences to ``none`` that the command line quotes, by data, network and fit of ``none``.

    The accuracy on training images is that of `recursivemix fit`: on unmixed, unaugmented images, in the last epoch.
    """
    rows = []
    ladder = [read_comparison(file.parent, "none") for file in ladder_files()]
    for record in (*comparisons_by_fit(), *ladder, *map(read_comparison, finetune_folders())):
        runs = method_of(record, "none")["runs"]
        pairs = accuracy_pairs(record)
        data = record["data"]
        rows.append(
            {
                "data": DATA_NAMES.get(data["name"], data["name"]),
                "images": data["train_images"],
                "images_per_class": data["train_images"] / len(data["classes"]),
                "network": record["model"],
                "epochs": record["epochs"],
                "seeds": len(runs),
                "fine_tuned": is_fine_tuned(record),
                "train_accuracy": round(mean(run["epochs"][-1]["acc_clean"] for run in runs), 1),
                "differences": [
                    {
                        "method": named(record, label).replace("`", ""),
                        **{
                            end: None if value is None else round(value, 2)
                            for end, value in interval_over_seeds(pairs[label]).items()
                        },
                    }
                    for label in ("cutmix", "recursivemix")
                    if label in pairs
                ],
            }
        )
    return json.dumps(rows, indent=1) + "\n"


def accuracy_pairs(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The difference of each method to the baseline in accuracy at the last epoch."""
    return {pair["method"]: pair for pair in record["pairs"] if pair["metric"] == "acc1_last"}


def interval_over_seeds(pair: dict[str, Any]) -> dict[str, float | None]:
    """Mean, low and high of a pair; no ends where they are of one seed, over its images alone."""
    ends = ("mean", "low", "high")
    return {end: None if end != "mean" and pair["n"] < 2 else pair[end] for end in ends}


def ladder_files() -> list[Path]:
    """The comparisons of the ladders, with one seed; the smaller network's is the first round of the halving."""
    folder = RESULTS / "where-it-pays"
    return [
        *sorted(folder.glob("ladder/*/comparison.json")),
        folder / "halving" / "first" / "comparison.json",
    ]


def difference(pair: dict[str, Any], digits: int) -> str:
    """The mean difference of a pair of methods in points, with its interval if it has one."""
    reach = "" if pair["low"] is None else f" ({pair['low']:+.{digits}f} to {pair['high']:+.{digits}f})"
    return f"{pair['mean']:+.{digits}f}{reach}"


def when_table() -> str:
    """Gains over ``none`` of every comparison, by how far ``none`` has fit its training images."""
    lines = [
        "| data, network, epochs | training images predicted by none | its training loss | difference to none in points, 95 % interval |",
        "| --- | --- | --- | --- |",
    ]
    for record in comparisons_by_fit():
        data = record["data"]
        gains = [f"{pair['method']} {difference(pair, 1)}" for pair in record["gains"]]
        seeds = record["finished"]
        lines.append(
            f"| {data['name']}, {data['train_images']:,} images, {record['model']}, {record['epochs']} epochs, "
            f"{seeds} seed{'s' if seeds > 1 else ''} | {record['train_accuracy']:.1f} % | {record['train_loss']:.3f} | "
            f"{'; '.join(gains)} |"
        )
    return "\n".join(lines)


def when_trained_table() -> str:
    """How many training images the networks of each method predict, beside what mixing changed."""
    lines = [
        "| data, network, epochs | method | training images predicted | by none | difference to none in points, 95 % interval |",
        "| --- " * 5 + "|",
    ]
    for record in comparisons_by_fit():
        clean = {
            method["label"]: mean(run["epochs"][-1]["acc_clean"] for run in method["runs"])
            for method in record["methods"]
            if method["runs"]
        }
        for pair in record["gains"]:
            if pair["method"] in ("cutmix", "recursivemix"):
                lines.append(
                    f"| {record['data']['name']}, {record['model']}, {record['epochs']} epochs | {pair['method']} | "
                    f"{clean[pair['method']]:.1f} % | {clean['none']:.1f} % | {difference(pair, 1)} |"
                )
    return "\n".join(
        [*lines, "", "*Unmixed training images without augmentation, last epoch, mean over seeds.*"]
    )


def when_ladder_table() -> str:
    """The exploration with one seed: gains over ``none`` by network, images and epochs."""
    lines = [
        "| network | images per class | epochs | training images predicted by none | accuracy of none | cutmix | recursivemix |",
        "| --- " * 7 + "|",
    ]
    for file in (RESULTS / "where-it-pays" / "explore" / "comparison.json", *ladder_files()):
        record = read_comparison(file.parent, "none")
        (run,) = method_of(record, "none")["runs"]
        pairs = accuracy_pairs(record)
        gains = [
            difference(pairs[name], 1) if name in pairs else "-" for name in ("cutmix", "recursivemix")
        ]
        data, last = record["data"], run["epochs"][-1]
        images = data["train_images"] // len(data["classes"])
        lines.append(
            f"| {record['model']}, {run['cost']['parameters_inference'] / 1e6:.1f} M | {images} | {record['epochs']} | "
            f"{last['acc_clean']:.1f} % | {last['acc1']:.1f} % | {' | '.join(gains)} |"
        )
    note = "*CIFAR-100, one seed, validation images; intervals are over images alone, so they leave out what another seed changes.*"
    return "\n".join([*lines, "", note])


def when_variants_table() -> str:
    """The variants of RecursiveMix that were tried, with one seed, the best first."""
    lines = [
        "| method | training images predicted | difference to none in points | difference to cutmix in points |",
        "| --- " * 4 + "|",
    ]
    folder = RESULTS / "where-it-pays" / "halving" / "first"
    record, beside = read_comparison(folder, "none"), read_comparison(folder, "cutmix")
    gains, behind = accuracy_pairs(record), accuracy_pairs(beside)
    for label in sorted(gains, key=lambda name: -gains[name]["mean"]):
        (run,) = method_of(record, label)["runs"]
        other = difference(behind[label], 1) if label in behind else "-"
        lines.append(
            f"| {named(record, label)} | {run['epochs'][-1]['acc_clean']:.1f} % | {difference(gains[label], 1)} | {other} |"
        )
    data = record["data"]
    note = (
        f"*CIFAR-100, {data['train_images'] // len(data['classes'])} images per class, {record['model']}, {record['epochs']} epochs, one seed, "
        f"{data['evaluation_images']:,} validation images; intervals are over images alone.*"
    )
    return "\n".join([*lines, "", note])


def when_confirmed_table() -> str:
    """The variant of RecursiveMix that the exploration chose, beside the references, on test images."""
    lines = [
        "| data | method | training images predicted | accuracy | difference to none in points | difference to cutmix in points |",
        "| --- " * 6 + "|",
    ]
    for file in sorted((RESULTS / "where-it-pays" / "confirm-16").glob("*/comparison.json")):
        record, beside = (read_comparison(file.parent, baseline) for baseline in ("none", "cutmix"))
        data, pairs = record["data"], [accuracy_pairs(record), accuracy_pairs(beside)]
        for method in record["methods"]:
            label, runs = method["label"], method["runs"]
            cells = [
                f"{difference(by[label], 2)}, p {by[label]['p_corrected']:.3f}" if label in by else "-"
                for by in pairs
            ]
            clean = mean(run["epochs"][-1]["acc_clean"] for run in runs)
            lines.append(
                f"| {DATA_NAMES.get(data['name'], data['name'])}, {data['train_images']:,} images, {len(runs)} seeds | "
                f"{named(record, label)} | {clean:.1f} % | {method['estimates']['acc1_last']['mean']:.2f} % | {' | '.join(cells)} |"
            )
    note = (
        f"*{record['model']}, {record['epochs']} epochs, test images at the last epoch; intervals are over seeds, and p is corrected for the "
        "number of methods (Holm).*"
    )
    return "\n".join([*lines, "", note])


def finetune_folders() -> list[Path]:
    """The comparisons of fine-tuning that are finished, the fewest images first."""
    folders = [RESULTS / "finetune" / str(n) for n in (50, 100, 500)]
    return [folder for folder in folders if (folder / "comparison.json").is_file()]


def finetune_table() -> str:
    """Accuracy of fine-tuning by method and number of images per class, with the differences to ``none``."""
    records = {int(folder.name): read_comparison(folder) for folder in finetune_folders()}
    counts = [f"{n} images per class" for n in records]
    lines = [f"| method | {' | '.join(counts)} |", "| --- " * (1 + len(counts)) + "|"]
    labels = [method["label"] for method in next(iter(records.values()))["methods"]]
    for label in labels:
        cells = []
        for record in records.values():
            parts = [f"{method_of(record, label)['estimates']['acc1_last']['mean']:.2f} %"]
            for pair in record["pairs"]:
                if (pair["method"], pair["metric"]) == (label, "acc1_last"):
                    parts.append(difference(pair, 2))
                    parts += [] if pair["p_corrected"] is None else [f"p {pair['p_corrected']:.3f}"]
            cells.append(", ".join(parts))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    seeds = ", ".join(f"{len(record['seeds'])} at {n}" for n, record in records.items())
    one = next(iter(records.values()))
    lines += [
        "",
        f"*20 classes of CIFAR-100, {one['model']} trained on the other 80, {one['epochs']} epochs, "
        f"{one['data']['evaluation_images']:,} test images; seeds: {seeds}. Last epoch, mean over seeds; difference to "
        "none within seeds with its 95 % interval, p corrected for the number of methods. `gentle` and `moderate` are "
        "RecursiveMix with max_area 0.3 on a quarter and half of the batches, `recursivemix` mixes every batch, "
        "`cutmix` half. Records: results/finetune/*",
    ]
    return "\n".join(lines)


def compared_table(place: str) -> str:
    """Methods of a comparison that ``recursivemix compare`` made, in a folder of results/."""
    folder = RESULTS / place
    if not folder.exists():
        return "Not measured yet."
    record = read_comparison(folder)
    data, baseline = record["data"], record["baseline"]
    pairs = accuracy_pairs(record)
    seeds = len(record["seeds"])
    lines = [
        f"**{data['name']}, {data['train_images']:,} training images**: {record['model']}, {record['epochs']} "
        f"epochs, {seeds} seed{'s' if seeds > 1 else ''}, {data['evaluation_images']:,} {data['evaluation_split']} "
        f"images. Means over seeds; the difference is within seeds, with its 95 % interval and p corrected "
        f"for the number of methods.",
        "",
        f"| method | settings | last epoch, % | best epoch, % | difference to {baseline} | p | "
        + " | ".join(metric.short for metric in SHOWN.values())
        + " |",
        "| --- " * (6 + len(SHOWN)) + "|",
    ]
    for method in record["methods"]:
        settings = dict(method["options"])
        settings |= settings.pop("mixer_options", {})
        means = {metric: found["mean"] for metric, found in method["estimates"].items()}
        pair = pairs.get(method["label"])
        gain = p = ""
        if pair is not None and pair["p"] is not None:
            gain = difference(pair, 2)
            p = f"{pair['p_corrected']:.3f}"
        others = [
            f"{means[name]:.{1 if metric.unit else 3}f}" if name in means else ""
            for name, metric in SHOWN.items()
        ]
        words = ", ".join(f"`{key}={value}`" for key, value in settings.items())
        lines.append(
            f"| {method['label']} | {words} | {means['acc1_last']:.2f} | {means['acc1_best']:.2f} | "
            f"{gain} | {p} | {' | '.join(others)} |"
        )
    return "\n".join([*lines, "", f"{record['answer']}", "", source(record, f"results/{place}/")])


def transfer_table(name: str) -> str:
    """Backbones of a comparison that ``recursivemix transfer compare`` made."""
    folder = RESULTS / "transfer" / name
    if not folder.exists():
        return "Not measured yet."
    record = read_comparison(folder)
    data, before, score = record["data"], record["pretraining"], record["score"]
    shown = {"ap": "box AP", "miou": "mIoU"}[score]
    pairs = {pair["method"]: pair for pair in record["pairs"] if pair["metric"] == score}
    lines = [
        f"**{Path(data['name']).name}, {record['task']}, {data['train_images']:,} training images**: "
        f"{before['model']} trained on {before['name']} ({before['train_images']:,} images of "
        f"{before['image_size']} pixels, {before['epochs']} epochs), then "
        f"{record['epochs']} epochs here; {len(record['seeds'])} seeds, "
        f"{data['evaluation_images']:,} {data['evaluation_split']} images. The difference is within seeds, "
        f"with its 95 % interval and p corrected for the number of methods.",
        "",
        f"| backbone | accuracy before, % | {shown}, last epoch, % | each seed | best epoch, % | "
        f"difference to {record['baseline']} | p |",
        "| --- " * 7 + "|",
    ]
    for method in record["methods"]:
        runs = method["runs"]
        last = [run["score_last"] for run in runs]
        acc = method["estimates"]["pretrain_acc1"]["mean"]
        pair = pairs.get(method["label"])
        gain = p = ""
        if pair is not None and pair["p"] is not None:
            gain = difference(pair, 2)
            p = f"{pair['p_corrected']:.3f}"
        lines.append(
            f"| {method['label']} | {acc:.1f} | {mean(last):.2f} | "
            f"{' / '.join(f'{value:.2f}' for value in last)} | "
            f"{mean(run['score_best'] for run in runs):.2f} | {gain} | {p} |"
        )
    return "\n".join([*lines, "", record["answer"], "", source(record, f"results/transfer/{name}/")])


def detection_table() -> str:
    """Images per second of the detectors beside torchvision's RetinaNet."""
    if not (RESULTS / "detection.json").exists():
        return "Not measured yet: make bench."
    record = read(RESULTS / "detection.json")
    settings, results = record["settings"], record["results"]
    lines = [
        f"**Detectors**, {settings['model']}, {settings['size']} pixels, batch {settings['batch']}, "
        f"{record['precision']}: images per second, and times torchvision's RetinaNet, medians of "
        f"{record['rounds']} rounds in turn.",
        "",
        "| | training | x RetinaNet | inference | x RetinaNet |",
        "| --- " * 5 + "|",
    ]
    for name, training in results["training"].items():
        inference = results["inference"][name]
        lines.append(
            f"| {name} | {training['images_per_second']:.1f} | {training['times_retinanet']:.2f} | "
            f"{inference['images_per_second']:.1f} | {inference['times_retinanet']:.2f} |"
        )
    return "\n".join([*lines, "", source(record, "results/detection.json")])


def statistics_table() -> str:
    """The mixing process of RecursiveMix, measured and by its closed form."""
    names = ("statistics-32.json", "statistics-224.json")
    records = [read(RESULTS / name) for name in names if (RESULTS / name).exists()]
    if not records:
        return "*not measured yet*"
    heads = [f"{record['size']} pixels{more}" for record in records for more in ("", ", closed form")]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]

    def row(name: str, cells: list[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    row(
        "pasted share, mean of 1 - `lam`",
        [f"{v:.4f}" for r in records for v in (r["pasted_mean"], r["closed_form"]["pasted_mean"])],
    )
    row(
        "nothing pasted",
        [f"{100 * v:.2f} %" for r in records for v in (r["unmixed"], r["closed_form"]["unmixed"])],
    )
    for age in range(5):
        row(
            f"label weight, {age} step{'s' * (age > 1)} ago" if age else "label weight, own image",
            [
                f"{v:.3g}"
                for r in records
                for v in (r["label_by_age"][age], r["closed_form"]["label_by_age"][age])
            ],
        )
    for threshold in records[0]["sources_above"]:
        row(
            f"images above a label weight of {threshold}",
            [v for r in records for v in (f"{r['sources_above'][threshold]:.2f}", "")],
        )
    for age in (1, 2, 3):
        scales = [r["scale_by_age"][age] for r in records]
        row(
            f"side of a visible image, {age} step{'s' * (age > 1)} ago",
            [v for s in scales for v in (f"{s:.3f}", "")],
        )
    drawn = f"{records[0]['batches']:,} draws; seed {records[0]['seed']}"
    return "\n".join(
        [*lines, "", f"*{drawn}.*", "", source(records[0], f"results/{', results/'.join(names)}")]
    )


def mixing_table() -> str:
    """Milliseconds of a mixing call beside the peers, one column pair a batch size."""
    if not (RESULTS / "mixing.json").exists():
        return "Not measured yet: make bench."
    record = read(RESULTS / "mixing.json")
    settings = [batch["setting"] for batch in record["settings"]["batches"]]
    rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in record["rows"]:
        rows[row["name"]][row["setting"]] = row
    lines = [
        "**One mixing call** (ours with its `remember`), milliseconds, median and ratio to a plain copy of the "
        "batch. kornia and `per_sample` draw for each sample, the others once a batch.",
        "",
        "| | " + " | ".join(f"{setting} | ratio" for setting in settings) + " |",
        "| --- |" + " --- | --- |" * len(settings),
    ]
    for name, by_setting in rows.items():
        cells = [
            f"{by_setting[setting]['median_ms']:.2f} | {by_setting[setting]['ratio_to_copy']:.2f}"
            for setting in settings
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", source(record, "results/mixing.json")])


def images_table() -> str:
    """Images per second that the loaders deliver, one row a case."""
    if not (RESULTS / "images.json").exists():
        return "Not measured yet: make bench."
    record = read(RESULTS / "images.json")
    cases: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in record["rows"]:
        cases[row["mode"], row["size"], row["workers"]][row["name"]] = row
    settings = record["settings"]
    height, width = settings["image_size"]
    ours = [name for name in next(iter(cases.values())) if name not in settings["peers"]]
    lines = [
        f"**Reading images**: images per second from JPEG files of {width}x{height} pixels (mean "
        f"{settings['mean_kib']:.0f} KiB) or from packs of {settings['packed_size']} pixels, and how many times "
        f"that is the fastest of {'; '.join(settings['peers'])}, as the median over {record['n']} rounds.",
        "",
        "| | pixels | workers | fastest peer | " + " | ".join(f"{name} | ratio" for name in ours) + " |",
        "| --- | --- | --- | --- |" + " --- | --- |" * len(ours),
    ]
    for (mode, size, workers), rows in cases.items():
        peer = max(rows[name]["median"] for name in settings["peers"])
        cells = [f"{rows[name]['median']:.0f} | {rows[name]['ratio']:.2f}" for name in ours]
        lines.append(f"| {mode} | {size} | {workers} | {peer:.0f} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", source(record, "results/images.json")])


def step_table() -> str:
    """What mixing adds to a training step."""
    if not (RESULTS / "step.json").exists():
        return "Not measured yet: make bench."
    record = read(RESULTS / "step.json")
    lines = [
        f"**One training step**, ResNet-18, 128 images of 32x32, {record['settings']['dtype']}, channels_last; ratio "
        f"to the plain step as the median over {record['n']} paired rounds.",
        "",
        "| | seconds | ratio | peak memory added |",
        "| --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        added = row["extra_peak_bytes"] / 2**20
        lines.append(
            f"| {row['name']} | {row['median_s']:.3f} | {row['ratio_to_plain']:.3f} | {added:.1f} MiB |"
        )
    return "\n".join([*lines, "", source(record, "results/step.json")])


AXIS_NAMES = {
    "classes": "number of classes",
    "batch": "images per batch",
    "size": "pixels per side",
    "ranks": "ranks (processes)",
}


def scaling_table() -> str:
    """Return how the cost of mixing grows: the slopes of its curves."""
    if not (RESULTS / "scaling.json").exists():
        return "Not measured yet: make bench."
    record = read(RESULTS / "scaling.json")
    base = record["settings"]["base"]
    slopes = {(line["axis"], line["name"]): line for line in record["slopes"]}
    axes = list(dict.fromkeys(axis for axis, _ in slopes))
    names = list(dict.fromkeys(name for _, name in slopes))
    lines = [
        f"**How cost grows**: a small network on {base['batch']} images of {base['size']}x{base['size']} with "
        f"{base['classes']} classes on one process, one of the four changed at a time. The slope is the exponent of "
        f"the growth (1: doubles with the value), median over {record['n']} rounds; in brackets the quartiles of "
        f"its difference to the plain step's; then the growth from the first value to the last.",
        "",
        f"| slope over | {' | '.join(names)} |",
        "| --- " * (1 + len(names)) + "|",
    ]
    for axis in axes:
        cells = []
        for name in names:
            line = slopes.get((axis, name))
            if line is None or name == "plain":
                cells.append("" if line is None else f"{line['slope']:.2f}, {line['growth_ms']:+.1f} ms")
                continue
            low, high = line["quartiles_of_minus_plain"]
            cells.append(f"{line['slope']:.2f} ({low:+.2f} to {high:+.2f}), {line['growth_ms']:+.1f} ms")
        lines.append(f"| {AXIS_NAMES[axis]} | {' | '.join(cells)} |")
    steeper = record["goal"]["steeper_than_plain"]
    said = f"Steeper than the plain step: {', '.join(steeper) or 'none'}."
    return "\n".join([*lines, "", said, "", source(record, "results/scaling.json")])


def coverage_table() -> str:
    """Return how often intervals hold the truth in simulated comparisons."""
    if not (RESULTS / "coverage.json").exists():
        return "Not measured yet: benchmarks/coverage.py."
    record = read(RESULTS / "coverage.json")
    rows = record["differences"]

    def span(values: list[float]) -> str:
        low, high = 100 * min(values), 100 * max(values)
        return f"{low:.1f} to {high:.1f} %"

    kinds = list(dict.fromkeys(row["interval"] for row in rows))
    lines = [
        f"**Intervals of 95 %**: the share that holds the true difference of two methods, in {record['n']:,} "
        "simulated comparisons per setting with known truth. Lowest to highest share over numbers of test "
        "images and spreads over seeds and images.",
        "",
        f"| seeds | {' | '.join(kinds)} |",
        "| --- " * (1 + len(kinds)) + "|",
    ]
    for seeds in sorted({row["seeds"] for row in rows}):
        own = [row for row in rows if row["seeds"] == seeds]
        if seeds == 1:
            here = span([row["coverage_of_this_seed"] for row in own])
            other = span([row["coverage"] for row in own])
            lines.append(
                f"| 1 | {here} of this seed's networks; {other} of other seeds |" + " |" * (len(kinds) - 1)
            )
            continue
        cells = [span([row["coverage"] for row in own if row["interval"] == kind]) for kind in kinds]
        lines.append(f"| {seeds} | {' | '.join(cells)} |")
    levels = record["levels"]
    lines += ["", "A measure that cannot be negative, gamma distributed over seeds:", ""]
    lines += ["| seeds | standard deviation / mean | t | t on the log scale | t reaches below zero |"]
    lines += ["| --- " * 5 + "|"]
    for plain, log in zip(levels[::2], levels[1::2], strict=True):
        lines.append(
            f"| {plain['seeds']} | {plain['variation']} | {100 * plain['coverage']:.1f} % | "
            f"{100 * log['coverage']:.1f} % | {100 * plain['below_zero']:.1f} % |"
        )
    return "\n".join([*lines, "", source(record, "results/coverage.json")])


def campaign_table() -> str:
    """Return how many attacks of each kind were tried and held."""
    if not (RESULTS / "campaign.json").exists():
        return "Not measured yet: make campaign."
    record = read(RESULTS / "campaign.json")
    lines = ["| | tried | held | |", "| --- " * 4 + "|"]
    for row in record["rows"]:
        note = ""
        if "memory_mib" in row:
            (first, last), (opened, kept) = row["memory_mib"], row["files"]
            note = (
                f"memory {first} MiB, at the end {last}; a line through it rises by {row['growth_mib']} MiB, "
                f"standard deviation around it {row['deviation_mib']}; open files {opened}, at the end {kept}"
            )
        lines.append(f"| {row['kind']} | {row['tried']:,} | {row['held']:,} | {note} |")
    took = f"{record['minutes']:.0f} minutes, seed {record['seed']}, {record['tries']:,} tries."
    return "\n".join([*lines, "", took, "", source(record, "results/campaign.json")])


COMPARISONS = {
    "equal": "equal settings",
    "defaults": "defaults of each",
    "data": "data alone, no network",
}


def training_table(name: str) -> str:
    """Images per second of training, ours beside other loops, from results/NAME.json."""
    if not (RESULTS / f"{name}.json").exists():
        return "Not measured yet: make bench."
    record = read(RESULTS / f"{name}.json")
    settings = record["settings"]
    model = settings["model"].removeprefix("timm ").split(",")[0]
    names = {"resnet18": "ResNet-18", "mobilenetv3_small_050": "MobileNetV3 small, width 0.5"}
    lines = [
        f"**Training**, {names.get(model, model)}, batches of {settings['batch_size']} images of {settings['image_size']}x"
        f"{settings['image_size']}: images per second, and how many times as fast the first row of its "
        f"comparison is, as the median over {record['n']} paired rounds.",
        "",
        "| comparison | | setting | images/s | first row is faster by | goal |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    goals = {(goal["comparison"], goal["against"]): goal for goal in record["goals"]}
    for row in record["rows"]:
        goal = goals.get((row["comparison"], row["name"]))
        aim = "" if goal is None else f"{goal['at_least']:g} x, {'' if goal['reached'] else 'not '}reached"
        setting = ", ".join(part for part in (row["precision"], row["setting"]) if part)
        lines.append(
            f"| {COMPARISONS[row['comparison']]} | {row['name']} | {setting} | "
            f"{row['images_per_second']:,.0f} | {row['ours_to_this']:.2f} x | {aim} |"
        )
    return "\n".join([*lines, "", source(record, f"results/{name}.json")])


def cost_table() -> str:
    """What mixing costs and how fast the trainer is, a line each, from the records of the benchmarks."""
    records = {
        name: read(RESULTS / f"{name}.json")
        for name in ("step", "mixing", "training", "training-224", "images")
        if (RESULTS / f"{name}.json").exists()
    }
    lines = ["**Cost and speed** on two CPU cores.", "", "| | |", "| --- | --- |"]
    for row in records.get("step", {"rows": []})["rows"]:
        if row["name"] == "recursivemix inplace":
            lines.append(
                f"| a training step with RecursiveMix in place, ResNet-18, 128 images of 32x32 | {row['ratio_to_plain']:.2f} times the "
                f"plain step, {row['extra_peak_bytes'] / 2**20:.1f} MiB more at the peak |"
            )
    for row in records.get("mixing", {"rows": []})["rows"]:
        if row["name"] == "recursivemix RecursiveMix inplace":
            lines.append(
                f"| the mixing call alone, {row['setting']} | {row['median_ms']:.2f} ms, {row['ratio_to_copy']:.2f} times a copy of "
                f"the batch |"
            )
    for name in ("training", "training-224"):
        rows = {
            row["name"]: row
            for row in records.get(name, {"rows": []})["rows"]
            if row["comparison"] == "defaults"
        }
        if rows:
            size = records[name]["settings"]["image_size"]
            peers = [
                f"{rows[peer]['ours_to_this']:.1f} times as fast as {peer}'s loop"
                for peer in ("timm", "torchvision")
            ]
            lines.append(
                f"| training on JPEG files at {size}x{size}, defaults of each | {', '.join(peers)} |"
            )
    for row in records.get("images", {"rows": []})["rows"]:
        if (row["mode"], row["size"], row["workers"]) == ("training", 224, 2) and row["name"] in (
            "recursivemix, files",
            "recursivemix, pack",
        ):
            lines.append(
                f"| reading for training at 224x224 with two workers, {row['name'].removeprefix('recursivemix, ').replace('pack', 'pack of JPEG')} | "
                f"{row['ratio']:.1f} times as fast as the faster of timm and torchvision |"
            )
    note = f"*From {', '.join(f'results/{name}.json' for name in records)}, which name machine and commit.*"
    return "\n".join([*lines, "", note])


def gpu_table() -> str:
    """What benchmarks/gpu.sh wrote, as far as it got."""
    names = ("step", "throughput", "cifar100-resnet18")
    files = {name: RESULTS / "gpu" / f"{name}.json" for name in names}
    records = {name: read(file) for name, file in files.items() if file.exists()}
    if not records:
        return "Not measured yet: benchmarks/gpu.sh."
    lines = ["**On one GPU**", "", "| | |", "| --- | --- |"]
    if "step" in records:
        step = records["step"]
        settings = step["settings"]
        lines.append(
            f"| plain step, {settings['model']}, {settings['batch_size']} images of {settings['image_size']}x"
            f"{settings['image_size']}, {settings['dtype']} | {1000 * step['rows'][0]['median_s']:.1f} ms |"
        )
        for row in step["rows"][1:]:
            lines.append(
                f"| the same with {row['name']} | {1000 * row['median_s']:.1f} ms, {row['ratio_to_plain']:.3f} x "
                f"plain, {row['extra_peak_bytes'] / 2**20:.0f} MiB more at the peak |"
            )
    for row in records.get("throughput", {"rows": []})["rows"]:
        compiled = ", compiled" if row["compile"] else ""
        speed = row["images_per_second"]
        said = row.get("error") if speed is None else f"{speed:,.0f} images/s"
        lines.append(f"| CIFAR-100, ResNet-18 through the trainer, {row['mixer']}{compiled} | {said} |")
    if "cifar100-resnet18" in records:
        run = records["cifar100-resnet18"]
        last = run["epochs"][-1]
        part = "" if run["finished"] else ", the run is not finished"
        lines.append(
            f"| recipe cifar100-resnet18, test accuracy after {last['epoch']:.0f} epochs{part} | "
            f"{last['acc1']:.2f} %, {last['seconds']:.0f} s |"
        )
    return "\n".join([*lines, "", source(next(iter(records.values())), "results/gpu/")])


def source(record: dict[str, Any], where: str) -> str:
    """One line that says what a table was measured on."""
    hardware = record["hardware"]
    machine = hardware.get("gpu") or f"{hardware['processor']}, {hardware['threads']} threads"
    commit = (record["commit"] or "unknown")[:8]
    return f"*{machine}, torch {record['versions']['torch']}, commit {commit}; records: {where}*"


TABLES = {
    "compared_cifar10": partial(compared_table, "compare/cifar10"),
    "compared_cifar100": partial(compared_table, "where-it-pays/confirm"),
    "compared_digits": partial(compared_table, "compare/digits"),
    "compared_ablation": partial(compared_table, "compare/ablation"),
    "compared_tried": partial(compared_table, "compare/tried"),
    "transfer_bccd": partial(transfer_table, "bccd"),
    "transfer_camvid": partial(transfer_table, "camvid"),
    "detection": detection_table,
    "statistics": statistics_table,
    "cifar10": cifar10_table,
    "mixing": mixing_table,
    "step": step_table,
    "scaling": scaling_table,
    "images": images_table,
    "training": partial(training_table, "training"),
    "training_224": partial(training_table, "training-224"),
    "gpu": gpu_table,
    "cost": cost_table,
    "when": when_table,
    "when_trained": when_trained_table,
    "when_ladder": when_ladder_table,
    "when_variants": when_variants_table,
    "when_confirmed": when_confirmed_table,
    "finetune": finetune_table,
    "coverage": coverage_table,
    "campaign": campaign_table,
    "claims": claims_table,
}


def first_sentence(thing: object) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0]


def methods_list(prefix: str) -> str:
    """The mixing methods with their cards; ``prefix`` is the path from the page to docs/."""
    from recursivemix import MIXERS

    lines = ["| method | |", "| --- | --- |"]
    lines += [
        f"| [`{name}`]({prefix}methods/{name}.md) | {first_sentence(kind)} |"
        for name, kind in MIXERS.items()
    ]
    return "\n".join(lines)


def recipes_list(prefix: str) -> str:
    """The recipes."""
    from recursivemix.recipes import read_recipe, recipe_names

    lines = ["| recipe | epochs | task |", "| --- | --- | --- |"]
    for name in recipe_names():
        recipe = read_recipe(name)
        lines.append(f"| `{name}` | {recipe.settings['epochs']} | {recipe.task} |")
    return "\n".join(lines)


def probes_list(prefix: str) -> str:
    """The probes of ``recursivemix evaluate``."""
    from recursivemix.evaluation.probes import PROBES

    lines = ["| probe | measures |", "| --- | --- |"]
    lines += [f"| `{probe.name}` | {', '.join(m.title for m in probe.metrics)} |" for probe in PROBES]
    return "\n".join(lines)


def networks_list(prefix: str) -> str:
    """The detectors and the segmentation heads."""
    from recursivemix.tasks.detection.names import BOX_DETECTORS, MASK_DETECTORS, load_detector
    from recursivemix.tasks.segmentation.names import HEADS, load_head

    networks = {f"detection --detector {name}": load_detector(name) for name in BOX_DETECTORS}
    networks["instance"] = load_detector(*MASK_DETECTORS)
    networks |= {f"segmentation --head {name}": load_head(name) for name in HEADS}
    lines = ["| `recursivemix transfer` | |", "| --- | --- |"]
    for words, network in networks.items():
        description = first_sentence(network).removeprefix("Create ").removeprefix("the decoder of ")
        lines.append(f"| `{words}` | {description} |")
    return "\n".join(lines)


def methods_navigation() -> str:
    """The method cards in the navigation of the site."""
    from recursivemix import MIXERS

    names = ["recursivemix", *(name for name in MIXERS if name not in ("recursivemix", "none")), "none"]
    titles = {
        name: (ROOT / "docs" / "methods" / f"{name}.md").read_text().splitlines()[0].removeprefix("# ")
        for name in names
    }
    return "\n".join(f"      - {title}: methods/{name}.md" for name, title in titles.items())


LISTS = {"methods": methods_list, "recipes": recipes_list, "probes": probes_list, "networks": networks_list}


def filled(page: Path) -> str:
    """A page with every table and list written anew."""
    prefix = "" if page.is_relative_to(ROOT / "docs") else "docs/"
    if page.parent.name == "guides":
        prefix = "../"

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end table -->"

    def listing(match: re.Match[str]) -> str:
        return f"<!-- list: {match[1]} -->\n{LISTS[match[1]](prefix)}\n<!-- end list -->"

    text = page.read_text()
    if page.name == "mkdocs.yml":
        start, end = "      # list: methods\n", "\n      # end list"
        before, _, rest = text.partition(start)
        return f"{before}{start}{methods_navigation()}{end}{rest.partition(end)[2]}"
    text = re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end table -->", table, text, flags=re.DOTALL)
    return re.sub(r"<!-- list: (\w+) -->\n.*?<!-- end list -->", listing, text, flags=re.DOTALL)


def main() -> int:
    """Rewrite the pages, or with --check say whether they are up to date."""
    stale = []
    pages = [
        ROOT / "README.md",
        RESULTS / "README.md",
        ROOT / "mkdocs.yml",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    texts = {EVIDENCE: evidence()} | {page: filled(page) for page in pages}
    for file, new in texts.items():
        if not file.exists() or new != file.read_text():
            stale.append(str(file.relative_to(ROOT)))
        if "--check" not in sys.argv:
            file.write_text(new)
    if "--check" in sys.argv:
        print(f"{' and '.join(stale)} out of date: run docs/make_tables.py" if stale else "up to date")
        return int(bool(stale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
