"""The command line as a person uses it: a run, its folder, the same accuracy again, and every refusal."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from recursivemix import load
from recursivemix.cli import main
from recursivemix.cli.dispatch import parse
from recursivemix.cli.errors import UsageError
from recursivemix.cli.train import SettingsSource, checkpoint_of, checkpoint_to_resume, fit
from recursivemix.tasks.settings import ClassificationSettings
from samples import FAST, write_image_root, write_images

pytestmark = pytest.mark.filterwarnings(
    # Lightning's and its dependencies' own calls; nothing that this project can mend.
    "ignore:.*LeafSpec.*",
    "ignore:.*does not have many workers.*",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run on the small images; it is only read."""
    place = tmp_path_factory.mktemp("trained")
    words = ["--data", str(write_image_root(place / "data")), "--out", str(place / "run"), "--seed", "3"]
    assert main(["fit", *words, *FAST]) == 0
    return place / "run"


def test_the_run_ends_with_a_table(image_root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", "--data", str(image_root), "--out", str(out), *FAST]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"accuracy, unmixed training images +│ +[0-9.]+ % ", printed)
    assert re.search(r"loss, unmixed training images +│ +[0-9.]+ +│", printed)
    record = json.loads((out / "record.json").read_text())
    assert f"{record['score_last']:.2f} % of 15 images (val)" in printed
    assert "images/s" in printed
    joined = printed.replace("│", "").replace("\n", "").replace(" ", "")
    assert str(out) in joined


def test_a_run_folder_holds_everything(run):
    record = json.loads((run / "record.json").read_text())
    assert record["seed"] == 3
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["data"]["train_images"] == 36
    assert [row["epoch"] for row in record["epochs"]] == [1, 2]

    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for column in (
        "acc_mixed", "acc_clean", "loss_clean", "acc1", "val_loss", "loss_label", "loss_consistency", "lr",
    ):  # fmt: skip
        assert torch.isfinite(torch.tensor(float(rows[-1][column])))
    assert float(rows[-1]["acc1"]) == record["score_last"]

    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["seed"], settings["epochs"], settings["mixer"]) == (3, 2, "recursivemix")
    assert list((run / "tensorboard").glob("events.*"))
    assert (run / "mixed_batches.png").stat().st_size > 5000

    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "ranks"} <= set(checkpoint)
    assert checkpoint["ranks"][0]["mixer"]["history"]["images"].shape[1:] == (3, 16, 16)


def test_the_fit_of_the_training_images_is_that_of_the_trained_network(run):
    """All 36 training images are in the probe; accuracy and loss from the checkpoint's own predictions."""
    last = json.loads((run / "record.json").read_text())
    files = sorted((run.parent / "data" / "train").glob("*/*"))
    predictions = load(run / "checkpoints" / "last.ckpt").predict(files, top_k=3)
    labels = [file.parent.name for file in files]
    hits = [one.labels[0] == label for one, label in zip(predictions, labels, strict=True)]
    losses = [
        -math.log(one.probabilities[one.labels.index(label)])
        for one, label in zip(predictions, labels, strict=True)
    ]
    assert last["metrics"]["acc_clean"] == pytest.approx(100 * sum(hits) / len(hits), abs=1e-3)
    # The run evaluates in its own precision, which may be bfloat16.
    assert last["metrics"]["loss_clean"] == pytest.approx(sum(losses) / len(losses), rel=5e-3)


def test_the_end_of_a_run_says_what_was_measured_at_this_fit(image_root, tmp_path, capsys):
    words = ["fit", "--data", str(image_root), "--out", str(tmp_path / "run"), "--mixer", "none", *FAST]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "of the training images are predicted without mixing" in printed
    assert "this project" in printed
    assert "docs/guides/when.md" in printed


def test_doctor_says_what_mixing_changed_on_similar_data(image_root, capsys):
    assert main(["doctor", str(image_root)]) == 0
    printed = capsys.readouterr().out
    assert "mixing: it helps networks that memorize their training images" in printed
    for start in ("training from scratch", "fine-tuning"):
        assert f"measured by this project, {start} with" in printed


def test_test_gives_the_same_accuracy_again(run, image_root, capsys):
    record = json.loads((run / "record.json").read_text())
    capsys.readouterr()
    arguments = ["test", "--checkpoint", str(run / "checkpoints" / "last.ckpt"), "--data", str(image_root)]
    assert main([*arguments, "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert f"{record['score_last']:.2f} %" in printed
    assert f"{record['epochs'][-1]['val_loss']:.4f}" in printed


@pytest.mark.usefixtures("without_picture")
def test_the_same_seed_gives_the_same_run(run, image_root, tmp_path):
    words = ["fit", "--data", str(image_root), *FAST]
    for name, seed in (("again", "3"), ("other", "6")):
        assert main([*words, "--out", str(tmp_path / name), "--seed", seed]) == 0
    records = []
    for folder in (run, tmp_path / "again", tmp_path / "other"):
        rows = json.loads((folder / "record.json").read_text())["epochs"]
        records.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert records[0] == records[1]
    assert records[0] != records[2]


@pytest.mark.usefixtures("without_picture")
@pytest.mark.parametrize("mixer", ["none", "mixup", "cutmix", "resizemix"])
def test_every_mixer_trains(mixer, image_root, tmp_path):
    out = tmp_path / "run"
    longer = ["--epochs", "10"] if mixer == "none" else []
    command = ["fit", "--data", str(image_root), "--out", str(out), "--mixer", mixer, *FAST, *longer]
    assert main(command) == 0
    record = json.loads((out / "record.json").read_text())
    assert "loss_consistency" not in record["epochs"][0]
    if mixer == "none":
        assert record["score_last"] == 100  # the colour tells the class


@pytest.mark.usefixtures("without_picture")
def test_options_of_mixer_model_and_trainer(image_root, tmp_path):
    arguments = [
        "--model", "vit_tiny_patch16_224", "--region-head", "shared",
        "--mixer-options.omega", "0.1", "--mixer-options.per-sample", "true",
        "--trainer.max-epochs", "1", "--trainer.limit-train-batches=2",
    ]  # fmt: skip
    assert main(["fit", "--data", str(image_root), "--out", str(tmp_path / "run"), *FAST, *arguments]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["config"]["mixer_options"] == {"omega": 0.1, "per_sample": True}
    assert len(record["epochs"]) == 1


@pytest.mark.usefixtures("without_picture")
def test_a_config_file_and_print_config(image_root, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--epochs", "7", "--print-config"])
    assert stop.value.code == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    printed = yaml.safe_load(file.read_text())
    assert printed["epochs"] == 7
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(file), "--seed", "3", "--print-config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out) == printed | {"seed": 3}
    file = tmp_path / "run.yaml"
    file.write_text(f"data: {image_root}\nmixer: cutmix\nepochs: 9\nworkers: 0\nbatch_size: 12\n")
    assert main(["fit", "--config", str(file), "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["config"]["mixer"], record["config"]["epochs"]) == ("cutmix", 1)


def test_a_file_of_settings_names_no_recipe(tmp_path, capsys):
    """Its settings would not be those of the recipe."""
    file = tmp_path / "run.yaml"
    file.write_text("recipe: cifar100-resnet18\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(file)])
    assert (
        f"{file}: recipe cannot be set in a file of settings; give it as a flag" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["fit", "--recipe", "cifar100-resnet18", "--print-config"])
    file.write_text(capsys.readouterr().out)
    call = parse(["fit", "--config", str(file)])
    assert call.arguments == parse(["fit", "--recipe", "cifar100-resnet18"]).arguments
    assert call.arguments["settings"].model == "resnet18"


@pytest.mark.usefixtures("without_picture")
def test_one_folder_with_val_split(image_root, tmp_path, capsys):
    flat = str(image_root / "train")
    assert main(["fit", "--data", flat, "--val-split", "0.25", "--out", str(tmp_path / "run"), *FAST]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["data"]["evaluation_images"] == 9
    capsys.readouterr()
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert main(["test", "--checkpoint", last, "--data", flat, "--workers", "0"]) == 0
    assert f"{record['score_last']:.2f} %" in capsys.readouterr().out


def spoil_nothing(root):
    pass


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (spoil_nothing, ["--model", "resnet19"], "unknown model 'resnet19'"),
        (spoil_nothing, ["--mixer", "cutmx"], "unknown mixer 'cutmx'"),
        (spoil_nothing, ["--mixer-options.omeja", "1"], "does not take these options"),
        (spoil_nothing, ["--mixer-options.omega", "-1"], "omega"),
        (spoil_nothing, ["--epochs", "0"], "--epochs must be at least 1"),
        (spoil_nothing, ["--lr", "-1"], "--lr must be > 0"),
        (spoil_nothing, ["--weight-decay", "-1"], "--weight-decay must be at least 0"),
        (spoil_nothing, ["--trainer.accelerator", "foo"], "invalid accelerator"),
        (spoil_nothing, ["--trainer.enable-checkpointing", "false"], "enable_checkpointing"),
        (spoil_nothing, ["--trainer.limit-val-batches", "0"], "leaves nothing"),
        (spoil_nothing, ["--trainer.max-steps", "0"], "no epoch was finished"),
        (shutil.rmtree, [], "there is no folder"),
        (lambda root: shutil.rmtree(root / "val"), [], "no labelled val or test split"),
        (lambda root: shutil.rmtree(root / "val" / "red"), [], "have different classes"),
        (lambda root: [p.unlink() for p in (root / "train" / "red").iterdir()], [], "holds no image"),
        (lambda root: (root / "train" / "red" / "7.png").write_bytes(b"no"), [], "red/7.png"),
        (lambda root: (root / "val" / "red" / "2.png").write_bytes(b"no"), [], "red/2.png"),
    ],
)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_refusal_is_one_line_and_leaves_nothing(
    image_root, tmp_path, capsys, spoil, arguments, message, workers
):
    spoil(image_root)
    if workers == "1" and "png" not in message:
        return  # refused before any worker starts
    out = tmp_path / "runs" / "run"
    command = ["fit", "--data", str(image_root), "--out", str(out), *FAST, "--workers", workers, *arguments]
    assert main(command) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    last = errors[-1]
    assert last.startswith("recursivemix fit: error: ")
    assert message in last
    assert "Traceback" not in "".join(errors)
    assert not out.exists()


def test_a_used_folder_is_not_written_into(image_root, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("kept")
    assert main(["fit", "--data", str(image_root), "--out", str(tmp_path / "run"), *FAST]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious"]


def test_checkpoints_that_do_not_fit(run, image_root, tmp_path, capsys):
    last = str(run / "checkpoints" / "last.ckpt")
    write_images(image_root / "train" / "violet", 3)
    write_images(image_root / "val" / "violet", 3)
    noise = tmp_path / "noise.ckpt"
    noise.write_bytes(b"nothing")
    for arguments, message in [
        (["--checkpoint", last], "was not trained on the digits"),
        (["--checkpoint", last, "--data", str(image_root)], "was trained on 3 classes"),
        (["--checkpoint", str(tmp_path / "none.ckpt")], "there is no checkpoint"),
        (["--checkpoint", str(noise)], "is damaged or not a checkpoint"),
    ]:
        capsys.readouterr()
        assert main(["test", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--compile", "--no-decay-norms", "--epochs", "3"], (True, False, False)),
        (["--compile", "false", "--download"], (False, True, True)),
        (["--compile=true", "--decay-norms", "true", "--download=false"], (True, True, False)),
    ],
)
def test_flags_need_no_value(words, settings, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *words, "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["compile"], printed["decay_norms"], printed["download"]) == settings


def test_an_unknown_option_ends_with_code_two(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--epoch-count", "3"])
    assert stop.value.code == 2
    assert "epoch_count" in capsys.readouterr().err.replace("-", "_")


def shown(capsys, *words):
    """What a help option prints; the command ends with code 0."""
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_is_short_and_the_rest_is_in_groups(capsys):
    short, full, trainer = (
        shown(capsys, "fit", f"--{name}") for name in ("help", "help-all", "help-trainer")
    )
    for option in ("--data", "--val-split", "--batch-size", "--config", "--print-config", "--help-all"):
        assert option in short
    assert "--batch_size" not in short + full
    for option in ("--checkpoint-every", "--[no-]decay-norms", "--resume-changed", "--label-smoothing"):
        assert option not in short
        assert option in full
    assert len(short.splitlines()) < 80 < len(full.splitlines())
    assert "--freeze VALUE  " in full  # a number or names
    assert "--trainer.max-epochs" in trainer
    assert "--trainer.max-epochs" not in short + full


def test_every_setting_stands_in_the_full_help_once(capsys):
    full = shown(capsys, "fit", "--help-all")
    options = re.findall(r"^  (?:-h, )?--(?:\[no-\])?([\w-]+)", full, re.MULTILINE)
    settings = {item.name.replace("_", "-") for item in fields(ClassificationSettings)}
    assert len(options) == len(set(options))
    assert set(options) - settings == {
        "recipe", "resume", "resume-changed", "trust-config", "config", "help", "help-all", "help-trainer",
        "print-config",
    }  # fmt: skip


@pytest.mark.usefixtures("without_picture")
def test_evaluating_now_and_then_still_measures_the_last_epoch(image_root, tmp_path):
    out = tmp_path / "run"
    command = ["fit", "--data", str(image_root), "--out", str(out), *FAST, "--epochs", "5"]
    assert main([*command, "--trainer.check-val-every-n-epoch", "2"]) == 0
    record = json.loads((out / "record.json").read_text())
    assert ["acc1" in row for row in record["epochs"]] == [False, True, False, True, True]
    assert record["score_last"] == record["epochs"][-1]["acc1"]


@pytest.mark.usefixtures("without_picture")
def test_a_callback_of_ones_own(image_root, tmp_path):
    out = tmp_path / "run"
    command = ["fit", "--data", str(image_root), "--out", str(out), *FAST, "--epochs", "1"]
    assert main([*command, "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"]) == 0


def test_class_names_that_look_like_formulas(image_root, tmp_path):
    for split in ("train", "val"):
        (image_root / split / "red").rename(image_root / split / "$x_{red$")
    out = tmp_path / "run"
    assert main(["fit", "--data", str(image_root), "--out", str(out), *FAST, "--epochs", "1"]) == 0
    assert (out / "mixed_batches.png").exists()


def test_an_unreadable_image_in_a_test_is_one_line(run, image_root, capsys):
    (image_root / "val" / "red" / "2.png").write_bytes(b"no")
    last = str(run / "checkpoints" / "last.ckpt")
    for workers in ("0", "1"):
        capsys.readouterr()
        assert main(["test", "--checkpoint", last, "--data", str(image_root), "--workers", workers]) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert "red/2.png" in errors[-1]
        assert "Traceback" not in "".join(errors)


def start(python, *arguments):
    """The command in a process of its own."""
    command = [python, "-m", "recursivemix.cli", "fit", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_two_processes_share_one_run(python, image_root, tmp_path):
    out = tmp_path / "run"
    process = start(python, "--data", str(image_root), "--out", str(out), *FAST, "--trainer.devices", "2")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    record = json.loads((out / "record.json").read_text())
    assert len(record["epochs"]) == 2
    assert (out / "mixed_batches.png").exists()
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(checkpoint["ranks"]) == 2


def test_ctrl_c_is_one_line(python, image_root, tmp_path):
    out = tmp_path / "run"
    process = start(python, "--data", str(image_root), "--out", str(out), *FAST, "--epochs", "5000")
    waited = time.monotonic() + 120
    while not (out / "checkpoints" / "last.ckpt").exists() and time.monotonic() < waited:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    step = checkpoint["global_step"]
    last = errors.strip().splitlines()[-1]
    assert last in [
        f"recursivemix fit: stopped {where}; resume with: recursivemix fit --resume {out}"
        for where in (f"at step {step}", f"after epoch {step // 3}")
    ]
    assert "Traceback" not in errors
    assert checkpoint["ranks"][0]["mixer"]["mixer"] == "RecursiveMix"


def test_an_integer_stays_one_whatever_was_imported_before(tmp_path):
    """One batch is not all of them: ``Union[float, int]`` of another library must not change the order."""
    code = (
        "import typing, sys\n"
        "assert typing.Optional[typing.Union[float, int]] and typing.Union[float, int]\n"
        "from recursivemix.cli.train import fit\n"
        "from recursivemix.cli.parser import parse_options\n"
        "words = '--trainer.limit_val_batches 1 --trainer.limit_train_batches 0.5'\n"
        "words += ' --trainer.overfit_batches 2'\n"
        "print(parse_options('fit', fit, words.split())['trainer'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = {"limit_train_batches": 0.5, "limit_val_batches": 1, "overfit_batches": 2}
    assert done.stdout.splitlines()[-1:] == [str(expected)], done.stderr  # which tells 1 from 1.0


def test_a_default_of_lightning_that_is_given_is_kept():
    """A run has one device unless told otherwise, so ``auto`` is no default there."""
    assert parse(["fit"]).arguments["trainer"] == {}
    words = [
        "--trainer.devices",
        "auto",
        "--grad-accum-steps",
        "4",
        "--trainer.accumulate-grad-batches",
        "1",
    ]
    assert parse(["fit", *words]).arguments["trainer"] == {"devices": "auto", "accumulate_grad_batches": 1}


def test_folders_that_a_run_made_do_not_change_its_settings(tmp_path, monkeypatch):
    """A relative --data that --download creates, and a cache of shards, exist when the run is resumed."""
    monkeypatch.chdir(tmp_path)
    settings = ClassificationSettings(
        data=Path("images"), dataset="cifar10", download=True, shard_cache=Path("cache")
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(settings.with_absolute_paths().as_plain()))
    (tmp_path / "images").mkdir()
    (tmp_path / "cache").mkdir()
    source = SettingsSource(resume=Path("run"))
    assert checkpoint_to_resume("fit", fit, source, settings, {}).samefile(checkpoint)
    elsewhere = replace(settings, shard_cache=Path("other"))
    assert checkpoint_to_resume("fit", fit, source, elsewhere, {}).samefile(checkpoint)
    with pytest.raises(UsageError, match=r"--data is .*other, was .*images"):
        checkpoint_to_resume("fit", fit, source, replace(settings, data=Path("other")), {})


def test_a_run_killed_between_its_first_two_checkpoints_resumes_from_the_best(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has no checkpoint .*last\.ckpt; it was stopped before"):
        checkpoint_of(tmp_path / "run")
    (checkpoints / "best.ckpt").touch()
    assert checkpoint_of(tmp_path / "run") == checkpoints / "best.ckpt"
    (checkpoints / "last.ckpt").touch()
    assert checkpoint_of(tmp_path / "run") == checkpoints / "last.ckpt"
    assert checkpoint_of(checkpoints / "best.ckpt") == checkpoints / "best.ckpt"
