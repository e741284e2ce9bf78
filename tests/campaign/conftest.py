"""How long a campaign of random attacks is: CAMPAIGN_TRIES of each kind, from CAMPAIGN_SEED; its record."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from campaign.short_runs import words_of
from recursivemix.models.checkpoint_file import read_checkpoint
from samples import write_images

SERVER = Path(__file__).with_name("fork_server.py")


@pytest.fixture(scope="session")
def tries() -> int:
    """Attacks of each kind: few in the test suite, thousands in a campaign."""
    return int(os.environ.get("CAMPAIGN_TRIES", "100"))


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of all attacks; a failure names its own number, counted from it."""
    return int(os.environ.get("CAMPAIGN_SEED", "0"))


@pytest.fixture
def recorded():
    """A function that notes how many attacks of a kind were tried and held, in CAMPAIGN_RECORD.

    record.py makes one record of these files. A test that fails before notes nothing.
    """

    def note(kind: str, tried: int, held: int, **figures: object) -> None:
        folder = os.environ.get("CAMPAIGN_RECORD")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = Path(folder, f"{kind.replace(' ', '-')}.json")
            path.write_text(json.dumps({"kind": kind, "tried": tried, "held": held, **figures}))

    return note


class ForkServer:
    """Starts commands and tells how they ended."""

    def __init__(self, folder):
        self.log = folder / "server.log"
        paths = [str(SERVER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, env=environment,
            )  # fmt: skip
        assert self.process.stdout.readline().strip() == "ready", self.log.read_text()

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, words, log, **more):
        return self.ask(words=[str(word) for word in words], log=str(log), **more)

    def wait(self, pid):
        return self.ask(wait=pid)

    def run(self, words, log, **more):
        return self.wait(self.start(words, log, **more))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = ForkServer(tmp_path_factory.mktemp("server"))
    yield server
    server.process.stdin.write('{"stop": true}\n')
    server.process.stdin.close()
    assert server.process.wait(30) == 0
    server.process.stdout.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for hue, name in enumerate(("blue", "green", "red")):
        write_images(root / "train" / name, 12, hue=hue)
        write_images(root / "val" / name, 5, hue=hue)
    return root


@pytest.fixture(scope="session")
def undisturbed(server, data, tmp_path_factory):
    """A function: the last checkpoint of a kind of run that nothing stopped, and its seconds."""
    known = {}

    def run(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp("whole")
            start = time.monotonic()
            code = server.run(words_of(kind, data, folder / "run"), folder / "log")
            seconds = time.monotonic() - start
            assert code == 0, (folder / "log").read_text()
            known[kind] = read_checkpoint(folder / "run" / "checkpoints" / "last.ckpt"), seconds
        return known[kind]

    return run
