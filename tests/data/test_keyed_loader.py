"""Workers of the loaders end with the process that started them, whenever that is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recursivemix.data.keyed_loader import KeyedLoader, print_unless_disconnected

KILLED_WHILE_THEY_START = """
import os, signal, sys, threading, time
from pathlib import Path
from recursivemix.data.keyed_loader import KeyedLoader

def wait_until_the_parent_is_dead():
    Path(sys.argv[1], str(os.getpid())).touch()
    while os.getppid() == parent:
        time.sleep(0.01)

parent = os.getpid()
os.register_at_fork(after_in_child=wait_until_the_parent_is_dead)
batches = KeyedLoader([1, 2, 3, 4], workers=2).load([[0], [1], [2], [3]])
os.kill(parent, signal.SIGKILL)
"""


def running(pid: str) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_workers_end_if_the_run_is_killed_while_they_start(python, tmp_path):
    words = [python, "-c", KILLED_WHILE_THEY_START, str(tmp_path)]
    assert subprocess.run(words, env=os.environ, check=False).returncode == -9
    end = time.monotonic() + 30
    while len(workers := [path.name for path in tmp_path.iterdir()]) < 2 and time.monotonic() < end:
        time.sleep(0.01)  # a worker may be forked and not yet have said so
    assert len(workers) == 2
    while any(map(running, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [worker for worker in workers if running(worker)]
    for worker in left:
        os.kill(int(worker), 9)
    assert left == []


def test_a_worker_is_silent_about_a_process_that_has_gone(capfd):
    for error in (ConnectionResetError(), EOFError(), ValueError("odd")):
        print_unless_disconnected(type(error), error, None)
        assert ("ValueError: odd" in capfd.readouterr().err) == isinstance(error, ValueError)


def test_the_workers_of_a_loader_print_so():
    hooks = KeyedLoader(Hooks(), workers=1, collate_fn=list).load([[0]])
    assert list(hooks) == [["print_unless_disconnected"]]


class Hooks:
    """A data set of the name of the function that prints a worker's errors."""

    def __getitem__(self, index):
        return sys.excepthook.__name__
