"""A run that was stopped and taken up again ends as one that was not: bit for bit, on a CPU."""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
from lightning import Callback

from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.checkpoints import StoppedError
from recursivemix.training.fit import fit
from recursivemix.training.optimizer import lr_factor
from recursivemix.training.prepare import prepare
from recursivemix.training.resume import ResumeError

ROOT = Path(__file__).resolve().parents[2]
# 36 training images and batches of 5: 8 steps an epoch, the last of one image.
STEPS, EPOCHS = 8, 3


class Signalled(Callback):
    """Sends this process a signal as a batch ends, the n-th of the run."""

    def __init__(self, batch: int, number: int = signal.SIGTERM) -> None:
        self.batch, self.number, self.seen = batch, number, 0

    def on_train_batch_end(self, *args: object) -> None:
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), self.number)


def config(image_root: Path, out: Path, **settings: object) -> ClassificationSettings:
    """A small run with dropout, whose network draws from torch's global stream as well."""
    plain = {"data": image_root, "out": out, "epochs": EPOCHS, "batch_size": 5, "workers": 0, "lr": 0.05}
    return ClassificationSettings(**(plain | {"device": "cpu", "precision": "32", "seed": 4} | settings))


def trained(run_config: ClassificationSettings) -> dict:
    """The last checkpoint of an uninterrupted run."""
    fit(prepare(run_config, [], {}))
    return torch.load(run_config.out / "checkpoints" / "last.ckpt", weights_only=True)


def resumed(run_config: ClassificationSettings, batch: int, number: int = signal.SIGTERM) -> dict:
    """The last checkpoint of a run that was stopped after a batch, and taken up again."""
    with pytest.raises(StoppedError):
        fit(prepare(run_config, [Signalled(batch, number)], {}))
    return gone_on(run_config)


def gone_on(run_config: ClassificationSettings) -> dict:
    last = run_config.out / "checkpoints" / "last.ckpt"
    fit(prepare(run_config, [], {}, resume=last))
    return torch.load(last, weights_only=True)


def same(a: object, b: object, path: str = "") -> None:
    """Equal to the last bit, tensors and all; clocks and the names of runs left out."""
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys(), path
        for name in a:
            if name not in ("seconds", "train_seconds", "resumed_at", "loops", "_batches_that_stepped"):
                same(a[name], b[name], f"{path}.{name}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f"{path}: {(a.double() - b.double()).abs().max()}"
    else:
        both_nan = a != a and b != b  # a score that does not apply
        assert a == b or both_nan, path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "batch", [1, STEPS + 3, STEPS, 2 * STEPS - 1], ids=["first", "middle", "epoch's end", "last but one"]
)
def test_stopped_at_any_step(images, uninterrupted, tmp_path, batch, number):
    whole, folder = uninterrupted()
    parts = resumed(config(images, tmp_path / "parts"), batch, number)
    same(whole, parts)
    rows = [(place / "metrics.csv").read_text().splitlines() for place in (folder, tmp_path / "parts")]
    without_clock = [[line.rsplit(",", 1)[0] for line in lines] for lines in rows]
    assert without_clock[0] == without_clock[1]


@pytest.mark.parametrize("batch", [2, 5, STEPS, STEPS + 4], ids=str)
def test_with_average_and_accumulation(images, uninterrupted, tmp_path, batch):
    """Windows of three batches: a stop within one waits for its end."""
    settings = {"ema_decay": 0.9, "grad_accum_steps": 3}
    whole, _ = uninterrupted(**settings)
    same(whole, resumed(config(images, tmp_path / "parts", **settings), batch))


@pytest.mark.parametrize(
    "settings",
    [
        {"mixer": "cutmix", "mixer_options": {"prob": 0.5}},
        {"mixer_options": {"across_epochs": False}},
        {"cache": "no"},
        {"cache": "no", "workers": 2, "crop": "resized", "color_jitter": 0.4, "lighting": 0.1},
        {"workers": 2, "auto_augment": "randaugment", "random_erasing": 0.5, "vertical_flip": True},
        {"workers": 1, "auto_augment": "augmix", "grayscale": 0.2, "blur": 0.5},
        {"repeats": 2, "lighting": 0.1},
        {"balanced_sampling": True, "class_weights": "balanced", "train_images": 31},
        {"model": "test_vit", "optimizer": "adamw", "lr": 1e-3, "decay_norms": False},
        {"mix_start": 2, "schedule": "step", "milestones": [1, 2], "label_smoothing": 0.1},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_with_every_part_that_draws_or_remembers(images, uninterrupted, tmp_path, settings):
    whole, _ = uninterrupted(**settings)
    same(whole, resumed(config(images, tmp_path / "parts", **settings), STEPS + 3))


@pytest.mark.parametrize(
    "settings",
    [{"mixer_options": {"across_epochs": False}}, {"ema_decay": 0.9, "grad_accum_steps": 3}],
    ids=lambda settings: "-".join(settings),
)
def test_at_an_epochs_end(images, uninterrupted, tmp_path, settings):
    whole, _ = uninterrupted(**settings)
    same(whole, resumed(config(images, tmp_path / "parts", **settings), 2 * STEPS))


def test_stopped_again_and_again(images, uninterrupted, tmp_path):
    whole, _ = uninterrupted()
    parts = config(images, tmp_path / "parts")
    last = parts.out / "checkpoints" / "last.ckpt"
    with pytest.raises(StoppedError):
        fit(prepare(parts, [Signalled(2)], {}))
    for batches in (1, 5, 3):
        with pytest.raises(StoppedError):
            fit(prepare(parts, [Signalled(batches)], {}, resume=last))
    result = gone_on(parts)
    same(whole, result)
    assert result["callbacks"]["EpochLog"]["resumed_at"] == [2, 3, 8, 11]


def test_killed(python, image_root, tmp_path):
    """kill -9: the last periodic checkpoint is what there is, and the run ends the same from there."""
    settings = {"checkpoint_every": 3, "ema_decay": 0.9}
    whole = trained(config(image_root, tmp_path / "whole", **settings))
    code = f"""
import sys; sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "tests" / "training")!r}]
from pathlib import Path
from test_resume import Signalled, config
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
parts = config(Path({str(image_root)!r}), Path({str(tmp_path / "parts")!r}), **{settings!r})
fit(prepare(parts, [Signalled(13, 9)], {{}}))
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    parts = config(image_root, tmp_path / "parts", **settings)
    left = torch.load(parts.out / "checkpoints" / "last.ckpt", weights_only=True)
    assert left["global_step"] == 12
    same(whole, gone_on(parts))


def test_on_shards_that_are_copied(image_root, tmp_path):
    """Gzipped shards are copied into a cache and shuffled shard by shard; on resume the cache is empty."""
    shards = tmp_path / "shards"
    shards.mkdir()
    classes = sorted(path.name for path in (image_root / "train").iterdir())
    for split in ("train", "val"):
        files = sorted((image_root / split).rglob("*.png"))
        for number in range(4):
            with tarfile.open(shards / f"{split}-{number}.tar.gz", "w:gz") as archive:
                for index, file in enumerate(files[number::4]):
                    archive.add(file, f"{index}.png")
                    label = str(classes.index(file.parent.name)).encode()
                    entry = tarfile.TarInfo(f"{index}.cls")
                    entry.size = len(label)
                    archive.addfile(entry, io.BytesIO(label))
    settings = {"data": shards, "cache": "no", "shard_cache": tmp_path / "cache"}
    whole = trained(config(image_root, tmp_path / "whole", **settings))
    parts = config(image_root, tmp_path / "parts", **settings)
    with pytest.raises(StoppedError):
        fit(prepare(parts, [Signalled(STEPS + 3)], {}))
    shutil.rmtree(tmp_path / "cache")
    same(whole, gone_on(parts))


def test_with_several_labels_per_image(image_root, tmp_path):
    rows = ["image,label,split"]
    for file in sorted(image_root.rglob("*.png")):
        label = file.parent.name if file.stem in "02468" else f"{file.parent.name};odd"
        rows.append(f"{file},{label},{file.parent.parent.name}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    settings = {"data": None, "table": tmp_path / "labels.csv"}
    same(
        trained(config(image_root, tmp_path / "whole", **settings)),
        resumed(config(image_root, tmp_path / "parts", **settings), STEPS + 3),
    )
    header = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0]
    assert "map_clean,val_loss,f1_micro,f1_macro,map" in header
    record = json.loads((tmp_path / "whole" / "record.json").read_text())
    assert (record["score"], list(record["per_class"])) == ("map", ["blue", "green", "odd", "red"])


class Ends(Callback):
    """Ends the run after a step, as --trainer.max-time does."""

    def on_train_batch_end(self, trainer, *arguments):
        trainer.should_stop |= trainer.global_step == STEPS + 3


def test_a_run_that_ended_within_an_epoch_goes_on_with_the_next(image_root, tmp_path):
    run, rates = config(image_root, tmp_path / "run", schedule="constant", warmup_epochs=0.0), Rates()
    assert len(fit(prepare(run, [Ends()], {})).rows) == 2
    last = run.out / "checkpoints" / "last.ckpt"
    with pytest.raises(ResumeError, match="ended within epoch 2"):
        prepare(run, [], {}, resume=last)
    result = fit(prepare(run, [rates], {}, resume=last, changed=True))
    assert len(rates.seen) == STEPS
    assert "acc_clean" in result.rows[2]  # evaluated as every epoch


class Rates(Callback):
    """Keeps learning rate, weight decay and momentum of each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *arguments):
        (group,) = trainer.optimizers[0].param_groups
        self.seen.append((group["lr"], group["weight_decay"], group["momentum"]))


def rates_after(image_root, out, batch, before, after):
    """Learning rate, weight decay and momentum of each step of a run resumed with other settings."""
    plain = {"schedule": "constant", "warmup_epochs": 0.0, "mixer": "none"}
    with pytest.raises(StoppedError):
        fit(prepare(config(image_root, out, **plain | before), [Signalled(batch)], {}))
    rates, last = Rates(), out / "checkpoints" / "last.ckpt"
    result = fit(prepare(config(image_root, out, **plain | after), [rates], {}, resume=last, changed=True))
    return rates.seen, result.rows


def test_a_changed_optimizer_setting_is_used(image_root, tmp_path):
    """As the guide advises after a loss that is not finite: --resume RUN --lr 0.05 --resume-changed."""
    changed = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.5}
    seen, rows = rates_after(image_root, tmp_path / "run", STEPS + 3, {}, changed)
    assert seen == [(0.02, 0.1, 0.5)] * (2 * STEPS - 3)
    assert [row["lr"] for row in rows] == [0.05, 0.05, 0.02]


@pytest.mark.parametrize(("batch_size", "steps"), [(12, 3), (3, 12)])
def test_a_schedule_goes_on_at_the_same_epoch_with_other_batches(batch_size, steps, image_root, tmp_path):
    """12 or 3 images per batch instead of 5: the schedule is that of three epochs."""
    seen, rows = rates_after(
        image_root,
        tmp_path / "run",
        2 * STEPS,
        {"schedule": "cosine"},
        {"schedule": "cosine", "batch_size": batch_size},
    )
    expected = [0.05 * lr_factor(2 * steps + step, EPOCHS * steps, 0) for step in range(steps)]
    assert [rate for rate, *_ in seen] == expected
    assert rows[2]["lr"] == expected[0]
