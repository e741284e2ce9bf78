"""What can go wrong in a run: one line that says what, and the last good checkpoint intact."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from lightning import Callback
from test_resume import Signalled, config, gone_on

from recursivemix.cli import main
from recursivemix.data.images import ImageFiles
from recursivemix.models.checkpoint_file import CheckpointError, write_checkpoint
from recursivemix.training.checkpoints import CheckpointIO, NonFiniteLossError
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
from samples import FAST


@pytest.fixture
def run(image_root, tmp_path):
    """The folder of a finished run on the small images."""
    folder = tmp_path / "run"
    assert main(["fit", "--data", str(image_root), "--out", str(folder), *FAST]) == 0
    return folder


@pytest.fixture
def stopped(python, image_root, tmp_path):
    """The folder of a run that was stopped in its first epoch, by the command line."""
    folder = tmp_path / "run"
    command = ["fit", "--data", str(image_root), "--out", str(folder), *FAST]
    callback = "--trainer.callbacks+=test_failures.StopsAtTwo"
    code = (
        f"import sys\nsys.path[:0] = {sys.path!r}\n"
        f"from recursivemix.cli import main\nsys.exit(main({[*command, callback]!r}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stdout + done.stderr
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["trainer"]["callbacks"] = None
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


class StopsAtTwo(Signalled):
    """Ctrl-C as the second batch ends."""

    def __init__(self) -> None:
        super().__init__(2, signal.SIGINT)


class Poison(Callback):
    """Makes the weights infinite before a batch, so that its loss is no number."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(module.parameters()).fill_(torch.inf)


def names_of(run, epoch, step):
    """Names of the training images of a batch."""
    return [run.data.train.name(i) for i in run.learner.order().batch(epoch, step).tolist()]


def test_a_loss_that_is_no_number_names_its_batch(image_root, tmp_path):
    settings = config(image_root, tmp_path / "run", checkpoint_every=1)
    run = prepare(settings, [Poison(10)], {})
    with pytest.raises(NonFiniteLossError) as stop:
        fit(run)
    message = str(stop.value)
    assert "step 3 of epoch 2" in message
    expected = names_of(run, 1, 2)
    assert len(expected) == 5
    for name in expected:
        assert name in message
        assert name.endswith(".png")
    assert f"learning rate {0.05 * run.learner.lr_factor(10):.3g}" in message
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert str(last) in message
    good = torch.load(last, weights_only=True)
    assert good["global_step"] == 10
    assert all(value.isfinite().all() for value in good["state_dict"].values())
    assert gone_on(settings)["global_step"] == 24


def test_the_images_of_shards_that_are_in_memory_are_named(image_root, tmp_path, monkeypatch):
    """Images in memory are shuffled all together, those that are read from shards shard by shard."""
    monkeypatch.setattr("recursivemix.data.order.SHUFFLED", 1)
    monkeypatch.setattr(ImageFiles, "blocks", torch.arange(100) % 2)

    class Watched(Poison):
        def on_train_batch_start(self, trainer, module, batch, index) -> None:
            super().on_train_batch_start(trainer, module, batch, index)
            self.indices = batch.indices

    poison = Watched(2)
    run = prepare(config(image_root, tmp_path / "run"), [poison], {})
    with pytest.raises(NonFiniteLossError) as stop:
        fit(run)
    assert all(run.data.train.name(i) in str(stop.value) for i in poison.indices.tolist())


def test_ruined_weights_reach_no_checkpoint(image_root, tmp_path):
    """The loss of a step is finite, but its update is not: the checkpoint before it stays."""

    class Ruin(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
            if trainer.global_step == 10:
                next(module.parameters()).grad.fill_(torch.inf)

    settings = config(image_root, tmp_path / "run", checkpoint_every=1)
    run = prepare(settings, [Ruin()], {})
    with pytest.raises(NonFiniteLossError, match="weights were not finite at step 3 of epoch 2") as stop:
        fit(run)
    assert all(name in str(stop.value) for name in names_of(run, 1, 2))
    good = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert good["global_step"] == 10


def test_the_command_line_says_it_in_one_line(image_root, tmp_path, capsys):
    command = ["fit", "--data", str(image_root), "--out", str(tmp_path / "run"), *FAST, "--precision", "32"]
    assert main([*command, "--lr", "1e30", "--warmup-epochs", "0", "--epochs", "4"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("recursivemix fit: failed: the loss was not finite at step")


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """The system refuses to write beyond a size, as a full disk would."""
    path = tmp_path / "last.ckpt"
    io = CheckpointIO()
    io.save_checkpoint({"weights": torch.zeros(10)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*last.ckpt.*intact.*full"):
            io.save_checkpoint({"weights": torch.rand(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_full_disk_in_a_run_is_one_line(python, image_root, tmp_path):
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "from recursivemix.cli import main\n"
        f"sys.exit(main({['fit', '--data', str(image_root), '--out', str(tmp_path / 'run'), *FAST]!r}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("recursivemix fit: failed: cannot write the checkpoint")
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written(image_root, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    assert main(["fit", "--data", str(image_root), "--out", str(out), *FAST]) == 2
    assert f"cannot write the run folder {out}" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="there is no previous one"):
        CheckpointIO().save_checkpoint({}, out / "last.ckpt")


def test_resume_takes_a_runs_settings_and_ends_it(stopped, capsys):
    assert main(["fit", "--resume", str(stopped)]) == 0
    record = json.loads((stopped / "record.json").read_text())
    assert record["resumed_at_steps"] == [2]
    assert [row["epoch"] for row in record["epochs"]] == [1, 2]
    assert main(["fit", "--resume", str(stopped)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_another_configuration_is_named(stopped, capsys):
    command = ["fit", "--resume", str(stopped), "--lr", "0.2", "--mixer-options.omega", "0.3"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "--lr is 0.2, was 0.05" in message
    assert "--mixer-options" in message
    assert "--resume-changed" in message
    assert main([*command, "--resume-changed"]) == 0
    record = json.loads((stopped / "record.json").read_text())
    assert record["config"]["lr"] == 0.2


def test_the_folder_may_not_change(stopped, tmp_path, capsys):
    assert main(["fit", "--resume", str(stopped), "--out", str(tmp_path / "other")]) == 2
    assert "--out is" in capsys.readouterr().err


def test_what_would_not_be_exact_is_refused(stopped, image_root, capsys, monkeypatch):
    def refused(*arguments):
        capsys.readouterr()
        assert main(["fit", "--resume", str(stopped), *arguments]) == 2
        return capsys.readouterr().err

    assert "--cache is no, was auto" in refused("--cache", "no")
    assert "cannot be resumed exactly" in refused("--resume-changed", "--trainer.max-steps", "5")
    assert "val-check-interval" in refused("--resume-changed", "--trainer.val-check-interval", "0.5")
    (image_root / "train" / "red" / "11.png").unlink()
    assert "the run had 36 training images, now there are 35" in refused()
    assert main(["fit", "--resume", str(stopped), "--resume-changed"]) == 0


def test_the_run_is_taken_up_from_another_folder(stopped, image_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "data")
    assert main(["fit", "--resume", str(stopped), "--trainer.enable-progress-bar", "false"]) == 0


def test_signals_are_as_before_after_a_run(image_root, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fit(prepare(config(image_root, tmp_path / "run", epochs=1), [], {}))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_gradients_can_be_clipped(image_root, tmp_path):
    settings = config(image_root, tmp_path / "run", epochs=1, precision="bf16")
    fit(prepare(settings, [], {"gradient_clip_val": 1.0}))


def test_workers_may_change(stopped):
    assert main(["fit", "--resume", str(stopped), "--workers", "1"]) == 0


def test_checkpoints_that_no_run_can_go_on_from(stopped, image_root, tmp_path, capsys):
    last = stopped / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    content = torch.load(last, weights_only=True)

    def refused(*arguments):
        capsys.readouterr()
        assert main(["fit", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert "Traceback" not in error
        return error.splitlines()[-1]

    last.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in refused("--resume", str(stopped))
    assert last.read_bytes() == whole[: len(whole) // 2]
    last.write_bytes(b"")
    assert "is damaged" in refused("--resume", str(stopped))
    write_checkpoint({"weights": torch.zeros(2)}, last)
    assert "is not a checkpoint of a recursivemix run" in refused("--resume", str(stopped))
    content["hyper_parameters"]["model"] = "resnet32"
    write_checkpoint(content, last)
    assert "its model is resnet32, here it is resnet20" in refused("--resume", str(stopped))
    last.unlink()
    assert "has no checkpoint" in refused("--resume", str(stopped))
    assert "there is no run" in refused("--resume", str(tmp_path / "nowhere"))
    last.write_bytes(whole)
    (stopped / "config.yaml").unlink()
    assert "the settings of the run are not there" in refused("--resume", str(stopped))
    assert "leave --recipe out" in refused("--resume", str(stopped), "--recipe", "cifar100-resnet18")


def test_a_finished_run_has_nothing_to_go_on_with(run, capsys):
    before = (run / "record.json").read_text()
    assert main(["fit", "--resume", str(run)]) == 2
    assert "is finished" in capsys.readouterr().err
    assert (run / "record.json").read_text() == before


def test_a_used_folder_says_how_to_go_on(run, image_root, capsys):
    assert main(["fit", "--data", str(image_root), "--out", str(run), *FAST]) == 2
    assert f"--resume {run}" in capsys.readouterr().err
