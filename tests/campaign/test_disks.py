"""Full disks, folders without permission, and data that vanish: one line, the last checkpoint intact."""

import os
import shutil
import signal
import sys
import time

import pytest
import torch

from campaign.short_runs import words_of
from recursivemix.models.checkpoint_file import read_checkpoint
from training.test_resume import same


def check_failed(code, log, out):
    """The command failed in one line, and its last checkpoint, if any, can be read; return the line."""
    text = log.read_text()
    assert code in (1, 2), text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    # TensorBoard's writer may say at exit that its log cannot be written either.
    lines = [line for line in text.splitlines() if "TensorBoard log cannot be written" not in line]
    line = lines[-1]
    assert line.startswith("recursivemix fit: "), line
    if (out / "checkpoints" / "last.ckpt").is_file():
        read_checkpoint(out / "checkpoints" / "last.ckpt")
    return line


def go_on(server, data, out, log, kind="every step"):
    resumed = (out / "checkpoints" / "last.ckpt").is_file()
    words = ["fit", "--resume", out] if resumed else words_of(kind, data, out)
    assert server.run(words, log) == 0, log.read_text()[-3000:]
    return read_checkpoint(out / "checkpoints" / "last.ckpt")


def test_full_at_any_write(server, data, undisturbed, tmp_path, tries, seed, recorded):
    whole, _ = undisturbed("every step")
    failed = 0
    count = 3 if tries < 1000 else 60
    for number in range(seed, seed + count):
        after = int(torch.randint(4000, (), generator=torch.Generator().manual_seed(number)))
        after = after % 40 if number % 4 == 0 else after  # the first writes of a run too
        out, log = tmp_path / str(number) / "run", tmp_path / f"log{number}"
        code = server.run(words_of("every step", data, out), log, full_after=after)
        if code != 0:
            failed += 1
            line = check_failed(code, log, out)
            assert "No space left" in line, f"{number}, full after {after} writes: {line}"
        else:
            shutil.rmtree(out)
        same(whole, go_on(server, data, out, tmp_path / "again"))
        assert not list(out.rglob(".*.part"))
        shutil.rmtree(out.parent)
    assert failed > 0
    recorded("full disks", failed, failed)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_without_permission(server, data, tmp_path):
    """A folder that is read-only, and one that becomes so in mid-run; the tests may run as root."""
    closed, log = tmp_path / "closed", tmp_path / "log"
    closed.mkdir(mode=0o555)
    code = server.run(words_of("every step", data, closed / "run"), log, unprivileged=True)
    assert "Permission denied" in check_failed(code, log, closed / "run")
    out = tmp_path / "run"
    pid = server.start(words_of("every step", data, out), log, unprivileged=True)
    while not (out / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.01)
    (out / "checkpoints").chmod(0o555)
    line = check_failed(server.wait(pid), log, out)
    (out / "checkpoints").chmod(0o755)
    assert "cannot write the checkpoint" in line
    assert "is intact" in line or "there is no previous one" in line  # last.ckpt, or the first best.ckpt
    assert server.run(["fit", "--resume", out], log, unprivileged=True) == 0


@pytest.mark.parametrize("change", ["vanish", "garbage", "folder"])
def test_data_that_change(change, server, data, tries, tmp_path):
    """Images are read in each epoch; one is lost after the first checkpoint, and found again."""
    if tries < 1000 and change != "vanish":
        pytest.skip("a part of make campaign")
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    whole = tmp_path / "whole"
    words = [*words_of("every step", copy, whole), "--cache", "no"]
    assert server.run(words, tmp_path / "log0") == 0
    out, log = tmp_path / "run", tmp_path / "log"
    words[words.index(str(whole))] = str(out)
    pid = server.start(words, log)
    while not (out / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.005)
    os.kill(pid, signal.SIGSTOP)
    lost = [copy / "train" / "green" / f"{i}.png" for i in range(12)]
    for file in lost:
        file.unlink()
        if change == "garbage":
            file.write_bytes(b"no image")
        elif change == "folder":
            file.mkdir()
    os.kill(pid, signal.SIGCONT)
    line = check_failed(server.wait(pid), log, out)
    assert "green" in line
    for file in lost:
        if file.is_dir():
            file.rmdir()
        shutil.copy(data / file.relative_to(copy), file)
    same(read_checkpoint(whole / "checkpoints" / "last.ckpt"), go_on(server, data, out, tmp_path / "again"))
