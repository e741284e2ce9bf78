"""Kills of packing, of runs on two processes, of comparisons and searches: the same command ends as if
undisturbed; one of two that write the same is refused.

A failure names the number of its kill: ``CAMPAIGN_SEED=<number> CAMPAIGN_TRIES=1`` repeats it alone.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from campaign.decisions import Decisions
from campaign.grid_runs import GRIDS, processes_of, results_of, words_of_grid
from campaign.short_runs import words_of
from campaign.test_kills import ENDED, SIGNALS, leftovers, signalled, until
from recursivemix.data.pack import sole_writer
from recursivemix.models.checkpoint_file import read_checkpoint
from samples import write_images
from training.test_resume import same

# -- packing ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for hue, name in enumerate(("blue", "green")):
        write_images(root / "train" / name, 60, hue=hue, size=(90, 80))
        write_images(root / "val" / name, 2, hue=hue, size=(90, 80))
    return root


def test_killed_while_packing(server, photographs, tmp_path, tries, seed, recorded):
    out, log = tmp_path / "a.pack", tmp_path / "log"
    words = ["pack", "--data", photographs, "--out", out]
    start = time.monotonic()
    assert server.run(words, log) == 0, log.read_text()
    seconds = time.monotonic() - start
    whole = out.read_bytes()
    out.unlink()
    count, killed = (5 if tries < 1000 else 60), 0
    for number in range(seed, seed + count):
        draw = Decisions(number)
        chosen = draw.of(SIGNALS)
        pid = server.start(words, log)
        code, _ = signalled(server, pid, chosen, seconds * draw.below(1000) / 1000)
        killed += code != 0
        assert code in (0, 130, -chosen), f"kill {number}: {log.read_text()[-2000:]}"
        if out.exists():
            assert out.read_bytes() == whole
            out.unlink()
        assert server.run(words, log) == 0, f"kill {number}: {log.read_text()[-2000:]}"
        assert out.read_bytes() == whole, f"kill {number}"
        assert not leftovers(tmp_path, {pid})
        out.unlink()
    assert "Traceback" not in log.read_text()
    assert killed > 0
    recorded("kills of pack", killed, killed)


def test_two_pack_the_same_file(server, photographs, tmp_path):
    out, log = tmp_path / "a.pack", tmp_path / "log"
    with sole_writer(out) as file:
        file.write(b"of the first")
        assert server.run(["pack", "--data", photographs, "--out", out], log) == 2
    lost = log.read_text()
    assert lost.startswith("recursivemix pack: error: ")
    assert "being written by another process" in lost
    assert lost.count("\n") == 1
    assert out.read_bytes() == b"of the first"
    assert [path.name for path in tmp_path.iterdir() if path != log] == [out.name]


# -- two processes of one run ------------------------------------------------------------------------


def start_two(server, words, logs):
    """Start both processes of a run as torchrun does; return their ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "campaign"}  # fmt: skip
    return [
        server.start(words, log, environment=variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, log in enumerate(logs)
    ]


@pytest.mark.slow
def test_killed_on_two_processes(server, data, tmp_path, tries, seed, recorded):
    """One or both of the processes are killed; the other one ends too, as torchrun would end it."""
    out, logs = tmp_path / "run", [tmp_path / f"log{rank}" for rank in range(2)]
    words = [*words_of("every step", data, out), "--devices", "2"]
    start = time.monotonic()
    assert [server.wait(pid) for pid in start_two(server, words, logs)] == [0, 0], logs[0].read_text()[
        -3000:
    ]
    seconds = time.monotonic() - start
    whole = read_checkpoint(out / "checkpoints" / "last.ckpt")
    shutil.rmtree(out)
    count, killed = (2 if tries < 1000 else 20), 0
    for number in range(seed, seed + count):
        draw = Decisions(number)
        pids = start_two(server, words, logs)
        time.sleep(seconds * draw.below(1000) / 1000)
        chosen, struck = draw.of(SIGNALS), draw.of(([0], [1], [0, 1]))
        for rank in struck:
            os.kill(pids[rank], chosen)
        # A process that waits for one that was killed ends by itself, or is ended by its launcher.
        alive = [rank for rank in range(2) if rank not in struck]
        waiting = not until(lambda pids=pids: not any(map(is_running, pids)), 15.0)
        if waiting:
            # Before the first step a process cannot know that the one it waits for was stopped in order.
            began = (out / "checkpoints" / "last.ckpt").is_file()
            assert chosen == signal.SIGKILL or not began, f"kill {number}"
            for rank in alive:
                os.kill(pids[rank], signal.SIGKILL)
        codes = [server.wait(pid) for pid in pids]
        killed += codes != [0, 0]
        ends = [log.read_text()[-1500:] for log in logs]
        note = f"kill {number}: {chosen.name} to {struck}: {codes}, {ends}"
        if chosen != signal.SIGKILL and not waiting:
            assert all(codes[rank] in (0, 130, -chosen) for rank in struck), note
            # One that ended before Python had its handlers breaks the connection, as SIGKILL does.
            broken = any(codes[rank] == -chosen for rank in struck)
            assert broken or all(code in (0, 130) for code in codes), note
        for _ in range(2):
            if (out / "record.json").is_file():
                break
            resumed = (out / "checkpoints" / "last.ckpt").is_file()
            again = ["fit", "--resume", out] if resumed else words
            ended = [server.wait(pid) for pid in start_two(server, again, logs)]
            assert ended == [0, 0], f"{note}; then {ended}, {logs[0].read_text()[-2000:]}"
        same(whole, read_checkpoint(out / "checkpoints" / "last.ckpt"))
        assert not leftovers(tmp_path, set(pids)), note
        shutil.rmtree(out)
    assert killed > 0
    recorded("kills of fit on 2 processes", killed, killed)


def is_running(pid):
    """Tell whether a child of the server is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- grids -----------------------------------------------------------------------------------------


def interruptible():
    """Answer Ctrl-C also if the tests run in the background, where shells have it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(words, log):
    """Start a command in a process of its own; append its output to a log."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "recursivemix.cli", *words], stdout=file, stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, preexec_fn=interruptible,
        )  # fmt: skip


def check_same(kind, whole, out):
    checkpoints, scores = results_of(kind, out)
    assert checkpoints.keys() == whole[0].keys()
    for name in checkpoints:
        same(whole[0][name], checkpoints[name])
    assert scores == whole[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRIDS)
def test_killed_grids(kind, data, tmp_path, tries, seed, recorded):
    """The parent or a child is killed, up to twice; then the same command ends as if undisturbed."""
    if tries < 300:
        pytest.skip("a part of make campaign")
    log, begin = tmp_path / "log", time.monotonic()
    assert started(words_of_grid(kind, data, tmp_path / "whole"), log).wait() == 0, log.read_text()[-3000:]
    seconds, whole = time.monotonic() - begin, results_of(kind, tmp_path / "whole")
    count, killed = tries // 300, 0
    for number in range(seed, seed + count):
        draw = Decisions(number)
        out = tmp_path / f"grid{number}"
        words = words_of_grid(kind, data, out)
        notes = [f"kill {number}"]
        for _ in range(2):
            process = started(words, log)
            time.sleep(seconds * (0.1 + 0.8 * draw.below(1000) / 1000))
            children = [pid for pid in processes_of(out) if pid != process.pid]
            victim = draw.of([process.pid, *children[:2]])
            chosen = draw.of(SIGNALS)
            if process.poll() is None:
                killed += 1
                os.kill(victim, chosen)
            if victim == process.pid and chosen != signal.SIGKILL:
                assert process.wait(ENDED) in (0, 130, -chosen), notes
            code = process.wait()
            notes.append(f"{chosen.name} to {'the parent' if victim == process.pid else 'a child'}: {code}")
            assert until(lambda out=out: not processes_of(out)), notes
            assert "Traceback" not in log.read_text(), [*notes, log.read_text()[-3000:]]
            if draw.chance(0.5):
                break
        assert started(words, log).wait() == 0, [*notes, log.read_text()[-3000:]]
        check_same(kind, whole, out)
        assert not [path for path in out.rglob("*") if path.name.endswith((".part", ".tmp"))], notes
        assert not processes_of(out)
        shutil.rmtree(out)
    assert killed > 0
    recorded(f"kills of {kind}", killed, killed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRIDS)
def test_two_start_the_same_grid(kind, data, tmp_path, tries):
    if tries < 300:
        pytest.skip("a part of make campaign")
    out, logs = tmp_path / "grid", [tmp_path / f"log{i}" for i in range(2)]
    processes = [started(words_of_grid(kind, data, out), log) for log in logs]
    codes = [process.wait() for process in processes]
    assert sorted(codes) == [0, 2], [log.read_text()[-2000:] for log in logs]
    lost = logs[codes.index(2)].read_text().splitlines()
    assert lost[-1].startswith(f"recursivemix {kind}: error: ")
    assert "in use by another process" in lost[-1]
    results_of(kind, out)
