"""Backbones trained by several methods, each transferred: which of them helps downstream.

A comparison is a folder: ``backbones/MIXER-seedN`` are runs of ``recursivemix fit``, ``runs/LABEL-seedN``
runs of ``recursivemix transfer``, ``transfer.json`` what they say, ``page.html`` the page. Started again,
it takes up what was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from PIL import Image

from recursivemix.mixing import MIXERS
from recursivemix.report.statistics import compare_all, estimate
from recursivemix.report.table import settled
from recursivemix.report.words import interval, listed
from recursivemix.tasks import METRIC_NAMES, settings_class
from recursivemix.tasks.settings import undo_yaml_coercion
from recursivemix.training.atomic_write import atomic_write, write_json, write_text
from recursivemix.training.commands import Start, beside, check_code, run_all
from recursivemix.training.environment import environment

from .transfer_page import build_page

CLI = (sys.executable, "-m", "recursivemix.cli")
RECORD = "record.json"
LAST = Path("checkpoints", "last.ckpt")
COMPARISON, PAGE = "transfer.json", "page.html"
FIXED = ("backbone", "data", "seed", "out")
"""What the comparison itself says of each run."""
Task = Literal["detection", "instance", "segmentation"]


@dataclass(frozen=True)
class TransferCompareConfig:
    """Settings of a comparison of backbones.

    Args:
        task: What they are transferred to: detection, instance or segmentation.
        data: Folder of annotated images, as in recursivemix transfer. Without it, scenes of digits.
        mixers: Methods that backbones are trained with, such as none,cutmix,recursivemix.
        methods: Further transfers by label: --methods.dense '{"backbone": "none", "mixer": "recursivemix"}'
            transfers the backbone trained with none with other settings than --settings.
        baseline: Label that the others are compared with. Default: the first.
        seeds: How many seeds; seed N of a backbone is transferred with seed N.
        pretrain: Settings of recursivemix fit for all backbones, such as --pretrain.model resnet18.
        settings: Settings of recursivemix transfer for all, such as --settings.epochs 12.
        jobs: Runs at a time; they share the cores.
        out: Folder of the comparison.
    """

    out: Path
    task: Task = "detection"
    data: Path | None = None
    mixers: str = "none,cutmix,recursivemix"
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: str | None = None
    seeds: int = 2
    pretrain: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        unknown = [name for name in self.backbones if name not in MIXERS]
        if unknown or not self.backbones:
            raise ValueError(
                f"--mixers: {', '.join(unknown) or 'none given'}; there are {', '.join(sorted(MIXERS))}"
            )
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"--mixers and --methods name a label twice: {', '.join(self.labels)}")
        for label, method in self.methods.items():
            if not re.fullmatch(r"[\w.-]+", label):
                raise ValueError(
                    f"--methods: the label {label!r} names folders: letters, digits, . _ - alone"
                )
            if method.get("backbone") not in self.backbones:
                raise ValueError(
                    f"--methods.{label} needs a backbone, one of {', '.join(self.backbones)}, got "
                    f"{method.get('backbone')}"
                )
        if self.reference not in self.labels:
            raise ValueError(f"--baseline must be one of {', '.join(self.labels)}, got {self.baseline}")
        for name in ("seed", "out", "mixer"):
            if name in self.pretrain:
                raise ValueError(f"--pretrain.{name} is what the comparison varies: leave it out")
        known = {item.name for item in dataclasses.fields(settings_class(self.task))}
        for settings in (
            self.settings,
            *({k: v for k, v in m.items() if k != "backbone"} for m in self.methods.values()),
        ):
            wrong = [name for name in settings if name in FIXED or name not in known]
            if wrong:
                raise ValueError(
                    f"{', '.join(wrong)}: not settings that all transfer runs of {self.task} can share"
                )

    @property
    def backbones(self) -> list[str]:
        """The methods that backbones are trained with."""
        return [name.strip() for name in self.mixers.split(",") if name.strip()]

    @property
    def labels(self) -> list[str]:
        """All methods, in the order of the page."""
        return [*self.backbones, *self.methods]

    @property
    def reference(self) -> str:
        """The label of the baseline."""
        return self.baseline or self.labels[0]


@dataclass(frozen=True)
class Transferred:
    """One backbone of one seed, trained and then transferred in one or more ways."""

    mixer: str
    seed: int
    labels: tuple[str, ...]
    """The methods that start from it."""

    @property
    def name(self) -> str:
        """Of the backbone's folder."""
        return f"{self.mixer}-seed{self.seed}"


def jobs_of(config: TransferCompareConfig) -> list[Transferred]:
    """The grid, seed by seed, so that an early look compares methods."""
    jobs = []
    for seed in range(config.seeds):
        for mixer in config.backbones:
            others = [label for label, method in config.methods.items() if method["backbone"] == mixer]
            jobs.append(Transferred(mixer, seed, (mixer, *others)))
    return jobs


def transfer_settings(config: TransferCompareConfig, job: Transferred, label: str) -> dict[str, Any]:
    """Settings of one transfer run."""
    own = {name: v for name, v in config.methods.get(label, {}).items() if name != "backbone"}
    settings: dict[str, Any] = undo_yaml_coercion(config.settings | own) | {"seed": job.seed}
    backbone = config.out.absolute() / "backbones" / job.name / LAST
    data = {} if config.data is None else {"data": str(config.data.absolute())}
    return settings | data | {"backbone": str(backbone)}


def compare(
    config: TransferCompareConfig, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run what is not finished yet, and write the page.

    Args:
        config: the settings.
        say: is given a line for each backbone whose runs have ended.

    Returns:
        What ``transfer.json`` holds, and the problem of every job that failed, by its name.

    Raises:
        ValueError: settings that can't be used, or that are not those of the folder's runs.
        GridStoppedError: Ctrl-C or SIGTERM; the same command goes on.
    """
    for package in ("jinja2", "plotly"):
        if find_spec(package) is None:  # known now, and not after the runs
            raise ValueError(f"a comparison needs {package}: pip install 'recursivemix[report]'")
    where = environment(gpu=True)
    jobs = jobs_of(config)
    for job in jobs:
        check_same(config.out / "backbones" / job.name, backbone_settings(config, job))
        for label in job.labels:
            check_same(run_of(config, label, job.seed), transfer_settings(config, job, label))

    def work(job: Transferred, threads: int | None, start: Start) -> None:
        run_job(config, job, threads, start)

    ended = 0

    def done(job: Transferred, problem: str | None) -> None:
        nonlocal ended
        ended += 1
        lines = (
            [result_line(config, label, job.seed) for label in job.labels] if problem is None else [problem]
        )
        for line in lines:
            say(f"{ended} of {len(jobs)}: {line}")

    problems = run_all(jobs, work, config.jobs, done)
    write_json(config.out / COMPARISON, collect(config, where))
    return rebuild(config.out), problems


def rebuild(folder: Path) -> dict[str, Any]:
    """Write the page anew from the folder's records alone; gives what `transfer.json` holds.

    Raises:
        ValueError: a folder without a comparison.
    """
    file = folder / COMPARISON
    if not file.is_file():
        raise ValueError(f"{folder} holds no {COMPARISON}: was it made by recursivemix transfer compare?")
    comparison: dict[str, Any] = json.loads(file.read_text())
    write_text(folder / PAGE, build_page(comparison, folder / "pictures"))
    return comparison


# -- runs -------------------------------------------------------------------------------------------


def run_of(config: TransferCompareConfig, label: str, seed: int) -> Path:
    """The folder of one transfer run."""
    return config.out / "runs" / f"{label}-seed{seed}"


def backbone_settings(config: TransferCompareConfig, job: Transferred) -> dict[str, Any]:
    """Settings of one pre-training run."""
    return undo_yaml_coercion(config.pretrain) | {"mixer": job.mixer, "seed": job.seed}


def check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError where a run's folder is of other settings."""
    file = beside(folder, ".json")
    if not file.is_file():
        return
    before, now = json.loads(file.read_text()), json.loads(json.dumps(settings))
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        changes = ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
        raise ValueError(
            f"{folder} is a run of other settings ({changes}): name another --out, or remove it"
        )


def run_job(config: TransferCompareConfig, job: Transferred, threads: int | None, start: Start) -> None:
    """Make a backbone and its transfers finished: begin each, or take it up where it was stopped."""
    backbone = config.out / "backbones" / job.name
    finish_run(["fit"], backbone, backbone_settings(config, job), threads, start)
    for label in job.labels:
        folder = run_of(config, label, job.seed)
        finish_run(["transfer", config.task], folder, transfer_settings(config, job, label), threads, start)


def finish_run(
    command: list[str], folder: Path, settings: dict[str, Any], threads: int | None, start: Start
) -> None:
    """One command to its record; nothing where that is there."""
    if (folder / RECORD).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(beside(folder, ".json"), settings)
    if (folder / LAST).is_file():
        words = [*command, "--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
        words = [*command, "--config", yaml.safe_dump(settings), "--out", str(folder)]
        words += ["--trainer.enable-progress-bar", "false"]
    log = beside(folder, ".log")
    check_code(start([*CLI, *words], log, threads), folder.name, log)


def result_line(config: TransferCompareConfig, label: str, seed: int) -> str:
    """A finished run in a line."""
    record = json.loads((run_of(config, label, seed) / RECORD).read_text())
    return (
        f"{label}-seed{seed}: {METRIC_NAMES[record['score']]} {record['score_last']:.2f} at the last "
        f"epoch, {record['seconds']:.0f} s"
    )


# -- what they say ----------------------------------------------------------------------------------


def collect(config: TransferCompareConfig, where: dict[str, Any]) -> dict[str, Any]:
    """What the finished runs say.

    Raises:
        ValueError: no run is finished.
    """
    runs: dict[str, dict[int, dict[str, Any]]] = {label: {} for label in config.labels}
    unfinished = []
    for job in jobs_of(config):
        for label in job.labels:
            if (run_of(config, label, job.seed) / RECORD).is_file():
                runs[label][job.seed] = read_run(config, job, label)
            else:
                unfinished.append(f"{label}-seed{job.seed}")
    first = next((run for own in runs.values() for run in own.values()), None)
    if first is None:
        raise ValueError(f"{config.out} has no finished run: see the logs in {config.out / 'runs'}")
    keep_pictures(config, runs)
    metrics = {
        name: {"name": f"{METRIC_NAMES[name]}, last epoch", "unit": "%", "higher_is_better": True}
        for name in first["metrics"]
    }
    metrics["pretrain_acc1"] = {
        "name": "Accuracy of the backbone before", "unit": "%", "higher_is_better": True,
    }  # fmt: skip
    readers: dict[str, Callable[[dict[str, Any]], float | None]] = {
        name: _reader(name) for name in first["metrics"]
    }
    readers["pretrain_acc1"] = lambda run: run["backbone"]["acc1_last"]
    record: dict[str, Any] = {
        "kind": "transfer comparison",
        **where,
        "task": config.task,
        "score": first["score"],
        "data": first["data"],
        "pretraining": first["backbone"]["data"] | {"model": first["backbone"]["model"]},
        "epochs": {"pretraining": first["backbone"]["epochs"], "transfer": len(first["epochs"])},
        "seeds": list(range(config.seeds)),
        "baseline": config.reference,
        "unfinished": unfinished,
        "methods": [
            {
                "label": label,
                "mixer": config.methods.get(label, {}).get("backbone", label),
                "options": {k: v for k, v in config.methods.get(label, {}).items() if k != "backbone"},
                "runs": [own[seed] for seed in sorted(own)],
                "estimates": {
                    name: asdict(estimate(values))
                    for name, read in readers.items()
                    if (values := [v for s in sorted(own) if (v := read(own[s])) is not None])
                },
            }
            for label, own in runs.items()
            if own
        ],
        "metrics": metrics,
        "pairs": compare_all(runs, config.reference, readers),
        "config_yaml": config_yaml(config),
    }
    return record | {"answer": answer(record)}


def _reader(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda run: run["metrics"].get(name)


def read_run(config: TransferCompareConfig, job: Transferred, label: str) -> dict[str, Any]:
    """One finished run, of its own record and its backbone's."""
    record = json.loads((run_of(config, label, job.seed) / RECORD).read_text())
    before = json.loads((config.out / "backbones" / job.name / RECORD).read_text())
    own = (
        "seed", "commit", "score", "score_last", "score_best", "best_epoch", "metrics", "per_class",
        "epochs", "seconds", "images_per_second", "data", "mixer_stats",
    )  # fmt: skip
    return {name: record[name] for name in own} | {
        "backbone": {
            "commit": before["commit"],
            "acc1_last": before["acc1_last"],
            "seconds": before["seconds"],
            "model": before["config"]["model"],
            "epochs": len(before["epochs"]),
            "data": {
                "name": "digits"
                if before["config"].get("data") is None
                else Path(before["config"]["data"]).name,
                "train_images": before["data"]["train_images"],
                "image_size": before["data"]["image_size"],
            },
            "keys": record["backbone"],
        }
    }


def keep_pictures(config: TransferCompareConfig, runs: dict[str, dict[int, dict[str, Any]]]) -> None:
    """The predictions of each method's first seed, beside the page."""
    target = config.out / "pictures"
    target.mkdir(parents=True, exist_ok=True)
    for label, own in runs.items():
        for seed in sorted(own)[:1]:
            picture = run_of(config, label, seed) / "predictions.png"
            if picture.is_file():
                # JPEG: a page of photographs as PNG is five times as large.
                with (
                    Image.open(picture) as image,
                    atomic_write(target / f"predictions-{label}.jpg") as part,
                ):
                    image.convert("RGB").save(part, "JPEG", quality=88)


def answer(comparison: dict[str, Any]) -> str:
    """One sentence: which backbone helps, if one can be told."""
    reference, score = comparison["baseline"], comparison["score"]
    pairs = [pair for pair in comparison["pairs"] if pair["metric"] == score]
    data = comparison["data"]
    place = f"on {Path(data['name']).name} ({data['train_images']:,} training images, {comparison['task']})"
    name = METRIC_NAMES[score]
    if not pairs:
        return (
            f"Nothing can be compared yet {place}: no seed is finished for {reference} and another method."
        )
    best = max(pairs, key=lambda pair: float(pair["mean"]))
    if best["n"] < 2:
        return (
            f"One seed can't tell methods apart {place}: {best['method']} is {best['mean']:+.2f} points of "
            f"{name} from {reference}, with no interval; run more --seeds."
        )
    shown = sorted((p for p in pairs if settled(p)), key=lambda p: -float(p["mean"]))
    better = [p["method"] for p in shown if p["mean"] > 0]
    worse = [p["method"] for p in shown if p["mean"] < 0]
    words = []
    if better:
        words.append(
            f"{listed(better)} {'has' if len(better) == 1 else 'have'} a higher {name} than {reference} "
            f"{place}, by {shown[0]['mean']:.2f} points ({interval(shown[0])}, {shown[0]['n']} seeds)"
        )
    else:
        words.append(
            f"No method is shown to have a higher {name} than {reference} {place}: the largest difference "
            f"is {best['method']}'s, {best['mean']:+.2f} points ({interval(best)}, {best['n']} seeds)"
        )
    if worse:
        words.append(f"{listed(worse)} {'is' if len(worse) == 1 else 'are'} shown to be lower")
    return "; ".join(words) + "."


def config_yaml(config: TransferCompareConfig) -> str:
    """A file for ``recursivemix transfer compare --config`` that repeats the comparison."""
    values = asdict(config)
    del values["out"], values["jobs"]
    values["data"] = None if config.data is None else str(config.data)
    values["pretrain"], values["settings"] = (
        undo_yaml_coercion(config.pretrain),
        undo_yaml_coercion(config.settings),
    )
    plain = {name: value for name, value in values.items() if value not in (None, {})}
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
