"""Malformed checkpoints in ``evaluate`` and ``--resume``: one line and exit code 2; the folder is kept."""

import copy

import pytest
import torch

from recursivemix.cli import main
from recursivemix.models.checkpoint_file import read_checkpoint, write_checkpoint
from samples import FAST

HYPER = "hyper_parameters"
WEIGHT = "state_dict/network.backbone.fc.bias"
BOTH = {
    "no weights": ("state_dict", {}),
    "weights None": ("state_dict", None),
    "weight of another shape": (WEIGHT, torch.zeros(7)),
    "weight sparse": (WEIGHT, torch.ones(3).to_sparse()),
    "weight missing": (WEIGHT,),
    "settings None": (HYPER, None),
    "classes None": (f"{HYPER}/classes", None),
    "model other": (f"{HYPER}/model", "resnet32"),
    "data None": (f"{HYPER}/data", None),
    "format newer": ("checkpoint_format", 99),
}
RESUME = {
    "loops None": ("loops", None),
    "loops empty": ("loops/fit_loop", {}),
    "epochs text": ("loops/fit_loop/epoch_progress/total/processed", "a"),
    "no callbacks": ("callbacks", {}),
    "rows None": ("callbacks/EpochLog/rows", None),
    "best a table": ("callbacks/Checkpoints", []),
    "no ranks": ("ranks", []),
    "rank a number": ("ranks", [5]),
    "mixer None": ("ranks", [{"mixer": None}]),
    "optimizers missing": ("optimizer_states",),
    "optimizer empty": ("optimizer_states", []),
    "optimizer None": ("optimizer_states", [None]),
    "schedulers None": ("lr_schedulers", [None]),
    "step negative": ("RunLoaders/next_step", -1),
    "step missing": ("RunLoaders",),
    "step text": ("global_step", "4"),
    "version None": ("pytorch-lightning_version", None),
    "version text": ("pytorch-lightning_version", "newest"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose checkpoint is of the first of two epochs, and its content."""
    from samples import write_images

    root = tmp_path_factory.mktemp("malformed")
    for hue, name in enumerate(("blue", "green", "red")):
        write_images(root / "data" / "train" / name, 12, hue=hue)
        write_images(root / "data" / "val" / name, 5, hue=hue)
    folder = root / "run"
    words = ["fit", "--data", str(root / "data"), "--out", str(folder), *FAST]
    with pytest.MonkeyPatch.context() as patch:
        from recursivemix.training.checkpoints import Checkpoints

        original = Checkpoints.on_train_batch_end

        def stop(self, trainer, *rest):
            if trainer.global_step == 2:
                self._signal = 2
            return original(self, trainer, *rest)

        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert main(words) == 130
    return folder, read_checkpoint(folder / "checkpoints" / "last.ckpt")


def write_changed(run, path, *value):
    """Write the run's checkpoint with one entry assigned, or deleted."""
    folder, content = run
    content = copy.deepcopy(content)
    table, (*parents, last) = content, path.split("/")
    for name in parents:
        table = table[name]
    if value:
        table[last] = value[0]
    else:
        del table[last]
    target = folder / "checkpoints" / "last.ckpt"
    if path == "checkpoint_format":
        torch.save(content, target)
    else:
        write_checkpoint(content, target)
    return target


def refused(words, capsys):
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert "error: " in error.splitlines()[-1]
    return error.splitlines()[-1]


@pytest.mark.parametrize("name", BOTH)
def test_in_evaluate(run, name, capsys):
    path = write_changed(run, *BOTH[name])
    data = str(run[0].parent / "data")
    line = refused(["evaluate", "--checkpoint", str(path), "--data", data, "--device", "cpu"], capsys)
    assert "last.ckpt" in line


@pytest.mark.parametrize("name", BOTH | RESUME)
def test_in_resume(run, name, capsys):
    write_changed(run, *(BOTH | RESUME)[name])
    assert "last.ckpt" in refused(["fit", "--resume", str(run[0])], capsys)
    assert (run[0] / "checkpoints" / "last.ckpt").is_file()


def test_a_momentum_of_another_shape(run, capsys):
    content = copy.deepcopy(run[1])
    state = content["optimizer_states"][0]["state"]
    state[0]["momentum_buffer"] = torch.zeros(3)
    write_checkpoint(content, run[0] / "checkpoints" / "last.ckpt")
    assert "cannot be resumed from" in refused(["fit", "--resume", str(run[0])], capsys)


def test_the_run_itself_goes_on(run):
    """The last test: it ends the run."""
    write_checkpoint(run[1], run[0] / "checkpoints" / "last.ckpt")
    assert main(["fit", "--resume", str(run[0])]) == 0
