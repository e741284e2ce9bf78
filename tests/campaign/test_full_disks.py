"""File systems of 5 to 50 MB that are filled at random moments: one line, and the command goes on later.

They are mounted for the test (tmpfs), which takes root.
"""

import contextlib
import shutil
import subprocess
import sys
import time

import pytest

from campaign.decisions import Decisions
from campaign.grid_runs import processes_of, results_of, words_of_grid
from campaign.short_runs import words_of
from campaign.test_disks import check_failed, go_on
from campaign.test_kills_of_commands import check_same, photographs, started, until  # noqa: F401
from training.test_resume import same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
MEGABYTES = (5, 6, 8, 12, 20, 50)


@pytest.fixture
def disk(tmp_path):
    """A function that mounts an empty file system of some megabytes in the place of the last one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(megabytes, options="rw"):
        while mounted:
            subprocess.run(["umount", mounted.pop()], check=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,{options}", "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def fill(folder):
    """Take all space that is left; return the file."""
    file = folder / "filler"
    with file.open("ab", buffering=0) as opened:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while opened.write(bytes(size)):
                    pass
    return file


def test_fit_on_a_full_disk(server, data, undisturbed, disk, tmp_path, tries, seed, recorded):
    whole, seconds = undisturbed("every step")
    count, failed = (3 if tries < 1000 else 40), 0
    for number in range(seed, seed + count):
        draw = Decisions(number)
        root, log = disk(draw.of(MEGABYTES)), tmp_path / f"log{number}"
        out = root / "run"
        pid = server.start(words_of("every step", data, out), log)
        time.sleep(seconds * draw.below(1000) / 1000)
        filler = fill(root)
        code = server.wait(pid)
        if code != 0:
            failed += 1
            line = check_failed(code, log, out)
            assert "No space left" in line or "the disk full" in line, f"{number}: {line}"
            assert not list(root.rglob(".*.part")), number
        filler.unlink()
        if shutil.disk_usage(root).total < 12 * 2**20:  # the last and the best checkpoint, and a part
            saved, root = out, tmp_path / f"larger{number}"
            root.mkdir()
            out = root / "run"
            if saved.is_dir():
                shutil.move(saved, out)
        if code != 0:
            same(whole, go_on(server, data, out, tmp_path / "again"))
        shutil.rmtree(root, ignore_errors=True)
    assert failed > 0
    recorded("full disks of fit", failed, failed)


def test_pack_on_a_full_disk(server, photographs, disk, tmp_path, tries, seed, recorded):  # noqa: F811
    words = ["pack", "--data", photographs, "--size", "90", "--raw", "true", "--out"]
    start = time.monotonic()
    assert server.run([*words, tmp_path / "whole.pack"], tmp_path / "log0") == 0
    seconds, whole = time.monotonic() - start, (tmp_path / "whole.pack").read_bytes()
    count, failed = (5 if tries < 1000 else 60), 0
    for number in range(seed, seed + count):
        root, log = disk(5), tmp_path / f"log{number}"
        out = root / "a.pack"
        pid = server.start([*words, out], log)
        time.sleep(seconds * Decisions(number).below(1000) / 1000)
        filler = fill(root)
        code = server.wait(pid)
        if code != 0:
            failed += 1
            assert code in (1, 2)
            text = log.read_text()
            assert "Traceback" not in text
            line = text.rstrip().splitlines()[-1]
            assert line.startswith("recursivemix pack: ")
            assert "No space left" in line
            assert "a.pack" in line
            assert [path.name for path in root.iterdir()] == ["filler"]
            filler.unlink()
            assert server.run([*words, out], log) == 0
        assert out.read_bytes() == whole
    assert failed > 0
    recorded("full disks of pack", failed, failed)


@pytest.mark.slow
def test_compare_on_a_full_disk(data, disk, tmp_path, tries, seed, recorded):
    if tries < 300:
        pytest.skip("a part of make campaign")
    log, begin = tmp_path / "log", time.monotonic()
    words = words_of_grid("compare", data, tmp_path / "whole")
    assert started(words, log).wait() == 0, log.read_text()[-3000:]
    seconds, whole = time.monotonic() - begin, results_of("compare", tmp_path / "whole")
    count, failed = tries // 300, 0
    for number in range(seed, seed + count):
        root = disk(50)
        out = root / "grid"
        words = words_of_grid("compare", data, out)
        process = started(words, log)
        time.sleep(seconds * Decisions(number).below(1000) / 1000)
        filler = fill(root)
        code = process.wait()
        text = log.read_text()
        assert "Traceback" not in text, text[-3000:]
        if code != 0:
            failed += 1
            assert code in (1, 2), text[-3000:]
            line = text.rstrip().splitlines()[-1]
            assert line.startswith("recursivemix compare: "), line
            assert "No space left" in line, line
        filler.unlink()
        assert until(lambda out=out: not processes_of(out))
        assert started(words, log).wait() == 0, log.read_text()[-3000:]
        check_same("compare", whole, out)
    recorded("full disks of compare", count, count)


@pytest.mark.parametrize("command", ["fit", "pack"])
def test_a_disk_that_is_read_only(command, server, data, disk, tmp_path):
    out, log = disk(5, "ro") / "a", tmp_path / "log"
    words = (
        words_of("every step", data, out) if command == "fit" else ["pack", "--data", data, "--out", out]
    )
    assert server.run(words, log) in (1, 2)
    text = log.read_text()
    assert "Traceback" not in text
    assert text.rstrip().splitlines()[-1].startswith(f"recursivemix {command}: ")
    assert "Read-only file system" in text
