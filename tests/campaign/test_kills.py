"""Runs killed at random moments end as undisturbed ones, bit for bit; a folder has one writer.

Runs start in forks of a process that has imported everything, see fork_server.py. A failure names the
number of its kill: ``CAMPAIGN_SEED=<number> CAMPAIGN_TRIES=1`` repeats it alone.
"""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from campaign.short_runs import KINDS, words_of
from recursivemix.models.checkpoint_file import read_checkpoint
from recursivemix.training.folder_lock import FolderInUseError, locked_folder
from training.test_resume import same

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ANSWERED = 3.0
"""Seconds within which Ctrl-C and SIGTERM end a run."""
ENDED = 30.0
"""Seconds within which processes without a parent, or without another of their run, must end."""


def until(condition, seconds=ENDED):
    """Wait for a condition; tell whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def signalled(server, pid, number, delay):
    """Send a signal after a delay; return the exit code and the seconds that the answer took."""
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    start = time.monotonic()
    return server.wait(pid), time.monotonic() - start


def leftovers(folder, pids):
    """Temporary files below a folder, and processes in the sessions of its runs."""
    files = [path for path in folder.rglob("*") if path.name.endswith((".part", ".tmp"))]
    processes = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[3]) in pids:
                processes.append(entry.parent.name)
    return files + processes


def go_on(server, kind, data, folder, log):
    """Resume the run with the flag that its message names, or start it anew."""
    out = folder / "run"
    if any((out / "checkpoints").glob("*.ckpt")):
        command = KINDS[kind][: 2 if KINDS[kind][0] == "transfer" else 1]
        return server.start([*command, "--resume", out], log)
    return server.start(words_of(kind, data, out), log)


def test_killed_at_random_moments(server, data, undisturbed, tmp_path, tries, seed, recorded):
    """Up to three kills in a run, then it ends equal to the undisturbed one."""
    count = max(1, tries // 25) if tries < 1000 else 200
    slow = []
    for number in range(seed, seed + count):
        draw = torch.Generator().manual_seed(number)
        below = lambda most, draw=draw: int(torch.randint(most, (), generator=draw))  # noqa: E731
        kinds = list(KINDS)[:2] if tries < 1000 else list(KINDS)
        kind = kinds[below(len(kinds))]
        whole, seconds = undisturbed(kind)
        folder = tmp_path / str(number)
        folder.mkdir()
        log = folder / "log"
        pid = server.start(words_of(kind, data, folder / "run"), log)
        pids = {pid}
        for _ in range(1 + below(3)):
            chosen = SIGNALS[below(3)]
            delay = seconds * float(torch.rand((), generator=draw)) * 0.9
            code, answered = signalled(server, pid, chosen, delay)
            note = f"kill {number}: {kind}, {chosen.name} after {delay:.2f} s: {log.read_text()[-2000:]}"
            if code == 0:
                break
            assert code == (-9 if chosen == signal.SIGKILL else 130) or (
                code == -chosen  # before Python has its handlers
            ), note
            assert "Traceback" not in log.read_text(), note
            if chosen != signal.SIGKILL:
                slow += [(number, answered)] * (answered > ANSWERED)
            if (folder / "run" / "record.json").is_file():  # killed when all was written
                code = 0
                break
            pid = go_on(server, kind, data, folder, log)
            pids.add(pid)
        if code != 0:
            code = server.wait(pid)
        note = f"kill {number}: {kind}, {log.read_text()[-2000:]}"
        assert code == 0, note
        try:
            same(whole, read_checkpoint(folder / "run" / "checkpoints" / "last.ckpt"))
        except AssertionError as error:
            error.add_note(note)
            raise
        # Processes that read images look every 5 s whether the run they work for was killed.
        gone = until(lambda folder=folder, pids=pids: not leftovers(folder, pids), 15)
        assert gone, f"{leftovers(folder, pids)} are left of {note}"
        assert (folder / "run" / "record.json").is_file(), note
        assert (folder / "run" / "predictions.png").is_file() == (KINDS[kind][0] == "transfer"), note
        shutil.rmtree(folder)
    recorded("kills", count, count)
    assert not slow, slow


def test_a_second_process_is_refused(server, data, tmp_path):
    """Both at once, and while the first one runs; the first one is undisturbed."""
    out = tmp_path / "run"
    words = words_of("recursivemix", data, out)
    pids = [server.start(words, tmp_path / f"log{i}") for i in range(2)]
    codes = [server.wait(pid) for pid in pids]
    assert sorted(codes) == [0, 2]
    lost = (tmp_path / f"log{codes.index(2)}").read_text()
    assert lost.splitlines()[-1].startswith("recursivemix fit: error: ")
    assert "in use by another process" in lost or "already exists" in lost
    assert "Traceback" not in lost
    assert (out / "record.json").is_file()


def test_a_run_is_not_resumed_twice_at_once(server, data, tmp_path):
    out = tmp_path / "run"
    pid = server.start(words_of("every step", data, out), tmp_path / "log")
    while not (out / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    server.wait(pid)
    with locked_folder(out):
        assert server.run(["fit", "--resume", out], tmp_path / "second") == 2
        assert "in use by another process" in (tmp_path / "second").read_text()
    assert server.run(["fit", "--resume", out], tmp_path / "third") == 0


def test_a_folder_is_locked_once(tmp_path):
    with locked_folder(tmp_path / "a"):
        with pytest.raises(FolderInUseError, match="in use by another"), locked_folder(tmp_path / "a"):
            pass
        child = os.fork()
        if child == 0:  # a process that reads images must not hold it longer than the run
            time.sleep(3)
            os._exit(0)
    with locked_folder(tmp_path / "a"):
        assert list((tmp_path / "a").iterdir()) == []
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_files_of_others_are_not_removed(server, data, tmp_path):
    """Only what a killed run leaves is taken over."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text("{}")
    (out / "thesis.txt").write_text("mine")
    assert server.run(words_of("every step", data, out), tmp_path / "log") == 2
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    assert server.run(words_of("every step", data, out), tmp_path / "log") == 2
    assert (out / "config.yaml").read_text() == "{}"
    (out / "config.yaml").unlink()
    assert server.run(words_of("every step", data, out), tmp_path / "log") == 0
