"""A run from Python is the run of the command line, for every task; its options are those of all tasks."""

import json
from copy import deepcopy
from dataclasses import fields
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import Callback
from torch import nn

from recursivemix.cli import main
from recursivemix.data.order import TrainingOrder
from recursivemix.tasks import METRIC_NAMES, TASKS, settings_class
from recursivemix.tasks.classification import ImageLoading, open_run_images
from recursivemix.training.fit import fit
from recursivemix.training.options import add_settings
from recursivemix.training.prepare import prepare
from recursivemix.training.settings import RunSettings
from recursivemix.training.trainer_classes import instantiated
from samples import write_images

SMALL = {
    "classification": {"model": "wrn10_2", "batch_size": 16},
    "detection": {"channels": 16, "depth": 1, "batch_size": 4, "image_size": [96]},
    "instance": {"channels": 16, "batch_size": 2, "image_size": [96]},
    "segmentation": {"channels": 16, "batch_size": 4, "image_size": 64},
}
"""Settings of a short run of each task on its sample images."""
COMMON = {"device": "cpu", "precision": "32", "epochs": 2, "seed": 3}
SHORT = {"limit_train_batches": 2, "limit_val_batches": 1, "enable_progress_bar": False}
VOLATILE = ("command", "date", "seconds", "images_per_second", "peak_memory_bytes")
"""Entries of a record that differ between two equal runs."""


def make_settings(task, out, **options):
    return settings_class(task)(out=out, **(SMALL[task] | COMMON | options))


def short_run(task, out, *callbacks, **options):
    return fit(prepare(make_settings(task, out, **options), list(callbacks), SHORT))


def record_of(folder):
    """The record without what differs between two equal runs."""
    record = json.loads((folder / "record.json").read_text())
    for name in VOLATILE:
        assert record.pop(name) is not None
    for row in record["epochs"]:
        assert row.pop("seconds") > 0
    assert record["config"].pop("out") == str(folder)
    return record


def as_words(options, prefix="--"):
    return [f"{prefix}{name.replace('_', '-')}={json.dumps(value)}" for name, value in options.items()]


@pytest.mark.parametrize("task", TASKS)
def test_a_run_from_python_is_that_of_the_command_line(task, tmp_path):
    by_hand, typed = tmp_path / "python", tmp_path / "typed"
    mixer = {"mixer": "recursivemix", "mixer_options": {"max_area": 0.4}}
    result = short_run(task, by_hand, **mixer)
    command = ["fit"] if task == "classification" else ["transfer", task]
    options = SMALL[task] | COMMON | {"mixer_options": mixer["mixer_options"]}
    words = [f"--{name.replace('_', '-')}={json.dumps(value)}" for name, value in options.items()]
    words = [word.replace('"', "") if "{" not in word else word for word in words]
    trainer = as_words(SHORT, "--trainer.")
    assert main([*command, *words, "--mixer", "recursivemix", *trainer, "--out", str(typed)]) == 0
    record = record_of(by_hand)
    assert record == record_of(typed)
    assert record["kind"] == " ".join(command)
    assert record["score_last"] == result.last == record["metrics"][record["score"]]
    assert record["score_best"] == max(row[record["score"]] for row in record["epochs"])
    assert record["metrics"].keys() <= METRIC_NAMES.keys()
    assert record["parameters"]["training"] >= record["parameters"]["inference"] > 0
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (by_hand, typed)]
    for config, folder in zip(configs, (by_hand, typed), strict=True):
        assert config.pop("out") == str(folder)
        assert config["trainer"] == SHORT
    assert configs[0] == configs[1]


class Mixes(Callback):
    """Notes in which epochs the mixer was used."""

    def __init__(self):
        self.epochs = []

    def on_train_start(self, trainer, module):
        remember = module.mixer.remember

        def noted(batch):
            self.epochs.append(trainer.current_epoch)
            return remember(batch)

        module.mixer.remember = noted


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_dense_mixing_starts_and_stops(task, tmp_path):
    mixes = Mixes()
    options = {"epochs": 3, "mixer": "recursivemix", "mix_start": 1, "mix_stop": 2, "evaluate_every": 3}
    short_run(task, tmp_path / "run", mixes, **options)
    assert mixes.epochs == [1, 1]


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_compiled_run(task, tmp_path, monkeypatch):
    """Traced as for any backend; torch's default one takes minutes to build its kernels."""
    built = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", partialmethod(built, backend="aot_eager"))
    torch._dynamo.reset()
    result = short_run(task, tmp_path / "run", epochs=1, compile=True, mixer="recursivemix")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("_orig_mod" in name for name in kept["state_dict"])
    losses = [value for name, value in result.rows[-1].items() if name.startswith("loss")]
    assert losses
    assert torch.isfinite(torch.tensor(losses)).all()


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_detectors_do_not_compile(task):
    with pytest.raises(ValueError, match="--compile is for classification and segmentation"):
        settings_class(task)(compile=True)


def test_a_copy_of_the_learner_has_no_images_of_its_own(tmp_path):
    """As averaged weights make one."""
    run = prepare(make_settings("classification", tmp_path / "run"), [], SHORT)
    assert deepcopy(run.learner).order.__self__ is run.loaders


def test_every_task_has_every_option_of_a_run():
    """One declaration each: no task redefines an option's type or drops it, only defaults differ."""
    shared = {item.name for item in fields(RunSettings)}
    for task in TASKS:
        assert shared <= {item.name for item in fields(settings_class(task))}


def test_a_failed_run_leaves_no_folder(tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        short_run("classification", tmp_path / "run", Fails())
    assert not (tmp_path / "run").exists()


def test_trainer_options_by_class_path(tmp_path):
    """As in a YAML file; the run folder keeps them, so that the run can be resumed with them."""
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "acc1", "patience": 7},
    }
    (callback,) = instantiated([stopping])
    assert callback.patience == 7
    options = SHORT | {"callbacks": [stopping]}
    run = prepare(make_settings("classification", tmp_path / "run", epochs=1), [], options)
    assert [c.patience for c in run.trainer.callbacks if type(c) is type(callback)] == [7]
    fit(run)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"] == options
    with pytest.raises(ValueError, match=r"cannot create lightning\.Nothing"):
        instantiated({"class_path": "lightning.Nothing"})


def test_a_run_that_lost_only_its_record_writes_it(tmp_path):
    """As after a kill between the last checkpoint and the record."""
    out = tmp_path / "run"
    short_run("classification", out, mixer="recursivemix")
    records = [json.loads((out / "record.json").read_text())]
    (out / "record.json").unlink()
    assert main(["fit", "--resume", str(out)]) == 0
    records.append(json.loads((out / "record.json").read_text()))
    for record in records:
        del record["date"], record["peak_memory_bytes"]
    assert records[0] == records[1]
    assert main(["fit", "--resume", str(out)]) == 2


def test_relative_paths_are_written_absolute(tmp_path, monkeypatch, image_root):
    monkeypatch.chdir(image_root.parent)
    data = Path(image_root.name)
    run = prepare(make_settings("classification", Path("run"), data=data, workers=0, epochs=1), [], SHORT)
    fit(run)
    assert yaml.safe_load(Path("run", "config.yaml").read_text())["data"] == str(image_root)


@pytest.mark.parametrize("task", TASKS)
def test_the_command_line_knows_the_type_of_every_option(task):
    """jsonargparse accepts anything for a type that it cannot resolve, and every option has a help text."""
    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser, settings_class(task))
    for action in parser._actions:
        assert "Unvalidated" not in str(getattr(action, "_typehint", None)), action.dest
        assert action.help, action.dest
    assert parser.parse_args(["--out=run"]).out == Path("run")


@pytest.mark.parametrize("size", [24, 72])
def test_images_in_memory_are_those_that_are_read_in_each_epoch(size, tmp_path):
    for hue, name in enumerate(("blue", "red")):
        write_images(tmp_path / "data" / "train" / name, 4, hue=hue, size=(48, 40))
        write_images(tmp_path / "data" / "val" / name, 2, hue=hue, size=(48, 40))
    order = TrainingOrder(8, 8, seed=0)
    images = {}
    for cache in ("yes", "no"):
        settings = make_settings(
            "classification", tmp_path / "run", data=tmp_path / "data", image_size=size, cache=cache,
            crop="none", flip=False, interpolation="bicubic", crop_pct=0.5, workers=0,
        )  # fmt: skip
        loading = ImageLoading(settings, open_run_images(settings, None))
        loading.fill_cache()
        device = torch.device("cpu")
        (batch,) = loading.training(order, lambda: 0, device)
        (evaluated,) = loading.evaluation(loading.data.evaluation, [torch.arange(4)], device)
        (probe,) = loading.evaluation(loading.probe(), [torch.arange(8)], device)
        images[cache] = torch.cat([batch.images, evaluated.images, probe.images])
    assert torch.equal(images["yes"], images["no"])
