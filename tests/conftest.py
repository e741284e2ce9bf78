"""Folders of images made on the spot, and the real data where it is there."""

from __future__ import annotations

import gc
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Test processes run side by side; one thread each is faster than fighting over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from samples import trained_content, write_image_root

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all of torch again and again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it end them; libraries report what is left at exit as leaked."""
    gc.unfreeze()


@pytest.fixture
def shared_data() -> Path:
    """Real data sets beside the checkout; tests that want them skip elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ``python`` that starts in milliseconds, see `fork_server.py`; a true one where that needs Linux."""
    if sys.platform != "linux":
        yield sys.executable
        return
    folder = tmp_path_factory.mktemp("python")
    here, path, words = Path(__file__).parent, folder / "python", [sys.executable, "-P"]
    client = f"{sys.executable} -I -S {here / 'fork_client.py'} {path} {folder / 'socket'}"
    path.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    path.chmod(0o755)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*words, str(here / "fork_server.py"), str(folder / "socket")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )  # fmt: skip
    with server:
        assert server.stdout.readline() == b"ready\n", (folder / "log").read_text()
        yield str(path)
        assert server.poll() is None, (folder / "log").read_text()
        # Its standard input may stay open in loader workers that this process has forked since.
        server.kill()


@pytest.fixture
def run_ranks(python: str) -> Callable[..., None]:
    """A function that calls ``function(rank, *arguments)`` in a process for each of the ranks."""

    def run(function: Callable[..., None], ranks: int, *arguments: object) -> None:
        folders = [str(Path(inspect.getfile(function)).parent), str(Path(__file__).parent)]
        code = (
            f"import json, sys; sys.path[:0] = {folders!r}\n"
            f"from {function.__module__} import {function.__name__}\n"
            f"{function.__name__}(*json.loads(sys.argv[1]))"
        )
        words = [[python, "-c", code, json.dumps([rank, *arguments])] for rank in range(ranks)]
        processes = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in words]
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors

    return run


@pytest.fixture
def without_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture of mixed batches, which takes nearly half of the time of a short run."""
    from recursivemix.explain import gallery

    monkeypatch.setattr(gallery, "write_cells", lambda *arguments: None)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """A folder of small images, see `write_image_root`."""
    return write_image_root(tmp_path / "data")


@pytest.fixture
def save_trained(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes `trained_content` to a checkpoint of a name."""
    from recursivemix.models.checkpoint_file import write_checkpoint

    def save(name: str = "last.ckpt", task: str = "classification", **arguments: object) -> Path:
        write_checkpoint(trained_content(task, **arguments), tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a short run, with the score and loss that Lightning measured at its end."""
    from recursivemix.tasks.settings import ClassificationSettings
    from recursivemix.training.fit import fit
    from recursivemix.training.prepare import prepare

    settings = ClassificationSettings(
        epochs=1,
        model="test_byobnet",
        precision="32",
        out=tmp_path_factory.mktemp("evaluated") / "run",
    )
    return fit(prepare(settings, [], {"limit_train_batches": 2, "enable_progress_bar": False}))


@pytest.fixture(scope="session")
def checkpoint(trained: Any) -> Path:
    """The last checkpoint of the short run."""
    path: Path = trained.folder / "checkpoints" / "last.ckpt"
    return path
