"""Every example runs as its docstring says, learns, and saves what it says it saves."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recursivemix import RecursiveMix

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "digits.py")

# Chance is 0.1. Every example gave 0.87 and more with three seeds; rolled labels, a forgotten step and a
# forgotten zero_grad gave 0.09 to 0.25.
LEARNED = 0.75


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The script's folder on the path; the CPU, for equal bits; one thread, as more spin on a busy CPU."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a script with arguments and return the accuracy it prints.

    In this process: five interpreters that import PyTorch and a trainer each would cost half a minute.
    """

    def run_script(name: str, *arguments: object) -> float:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        found = re.search(r"^test accuracy (\d\.\d+)$", capsys.readouterr().out, re.MULTILINE)
        assert found is not None
        return float(found[1])

    return run_script


def assert_same_state(one: Any, other: Any) -> None:
    """Two states of a mixer, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_docstring_says_how_to_run_it(script: str) -> None:
    source = (EXAMPLES / script).read_text()
    assert re.search(rf"^    (python|accelerate launch) examples/{script}\b", source, re.MULTILINE)


def test_a_script_runs_by_itself_and_without_a_warning(python: str) -> None:
    finished = subprocess.run(
        [python, "-W", "error", EXAMPLES / "plain_loop.py", "--epochs", "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1].startswith("test accuracy ")


def test_plain_loop(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "digits.pt"
    printed = run("plain_loop.py", "--epochs", 4, "--checkpoint", file)
    assert printed > LEARNED

    digits = importlib.import_module("digits")
    state = torch.load(file)
    backbone = digits.small_network()
    backbone.load_state_dict(state["backbone"])
    _, test = digits.load_digits_tensors()
    # The backbone alone, without the region head, is the model that was tested.
    assert digits.accuracy(backbone, test) == pytest.approx(printed, abs=1e-3)

    mixer = RecursiveMix(num_classes=10)
    mixer.load_state_dict(state["mixer"])
    images, labels = test[:32]
    batch = mixer(images, labels)
    x1, y1, x2, y2 = batch.boxes[0].tolist()
    assert batch.lam[0].item() == pytest.approx(1 - (x2 - x1) * (y2 - y1) / 32**2)
    assert (batch.lam < 1).all(), "the saved history is pasted into the next batch"


def test_dense_loop(run: Any) -> None:
    # Of the pixels of digits: 0.46 here, and 0.00 with the label maps of other images.
    assert run("dense_loop.py", "--epochs", 4) > 0.3


@pytest.mark.parametrize("mixup", ["timm", "cutmix"])
def test_timm_mixup_switch(run: Any, mixup: str) -> None:
    assert run("timm_mixup_switch.py", "--mixup", mixup, "--epochs", 3, "--mixup-off-epoch", 2) > LEARNED


def test_timm_loop_feeds_and_switches_recursivemix() -> None:
    script = runpy.run_path(str(EXAMPLES / "timm_mixup_switch.py"))
    mixer = script["MIXUPS"]["recursivemix"]()
    script["train"](mixer, epochs=1, mixup_off_epoch=0)
    assert mixer.enabled
    # More than two labels in a row: what was pasted had itself been mixed.
    assert ((mixer.history.targets > 0).sum(1) > 2).any()
    assert script["train"](mixer, epochs=3, mixup_off_epoch=2) > LEARNED
    assert not mixer.enabled
    assert mixer.history is None


# Lightning 2.6 with a newer PyTorch, and its advice on a machine with many cores.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_module(run: Any, tmp_path: Path) -> None:
    half, resumed = tmp_path / "half.ckpt", tmp_path / "resumed.ckpt"
    run("lightning_module.py", "--epochs", 2, "--checkpoint", half)
    assert run("lightning_module.py", "--epochs", 4, "--checkpoint", resumed, "--resume", half) > LEARNED
    state = torch.load(resumed)["mixer"]
    assert state["history"] is not None
    # Lightning does not save the order of the data, so the histories of a resumed and an uninterrupted
    # run differ; the mixer's stream has gone on over all four epochs of 42 batches.
    mixer = RecursiveMix(num_classes=10)
    for _ in range(4 * 42):
        mixer.draw(32, (32, 32))
    assert torch.equal(state["generator"], mixer.state_dict()["generator"])


# The Trainer's default on a machine without a GPU.
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_huggingface_trainer(run: Any, tmp_path: Path) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    run("huggingface_trainer.py", "--epochs", 2, "--output", parts)
    assert run("huggingface_trainer.py", "--epochs", 4, "--output", parts, "--resume") > LEARNED
    run("huggingface_trainer.py", "--epochs", 4, "--output", whole)
    states = [torch.load(folder / "checkpoint-168" / "mixer_0.pt") for folder in (parts, whole)]
    assert states[0]["history"] is not None
    assert_same_state(*states)

    transformers = importlib.import_module("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(whole)
    assert model.config.problem_type is None, "soft labels reached the model"


def test_accelerate_loop(run: Any, tmp_path: Path) -> None:
    half, resumed, whole = (tmp_path / name for name in ("half", "resumed", "whole"))
    run("accelerate_loop.py", "--epochs", 2, "--checkpoint", half)
    printed = run("accelerate_loop.py", "--epochs", 4, "--checkpoint", resumed, "--resume", half)
    assert printed > LEARNED
    assert run("accelerate_loop.py", "--epochs", 4, "--checkpoint", whole) == printed
    states = [torch.load(folder / "custom_checkpoint_0.pkl") for folder in (resumed, whole)]
    assert states[0]["history"] is not None
    assert_same_state(*states)
