"""`fork_server.py` acts as ``python``: arguments, streams, exit codes, signals and packages."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAMS = {
    "ends": ("print(1)", 0),
    "code": ("import sys; sys.exit(3)", 3),
    "message": ("import sys; sys.exit('no')", 1),
    "error": ("print(1)\n1 / 0", 1),
    "killed": ("import os; os.kill(os.getpid(), 9)", -9),
    "interrupted": ("raise KeyboardInterrupt", -2),
    "at exit": ("import atexit, sys; atexit.register(print, 2)\nprint(sys.argv, sys.path[0])", 0),
    "unknown": ("import this_is_nowhere", 1),
}


def outcome(executable, words, **options):
    done = subprocess.run([executable, *words], capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize(("code", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_ends_as_with_the_true_python(python, code, expected):
    ends = [outcome(executable, ["-c", code, "a", "b c"]) for executable in (python, sys.executable)]
    assert ends[0] == ends[1]
    assert ends[0][0] == expected


def test_scripts_and_modules_are_found(python, tmp_path):
    (tmp_path / "neighbour.py").write_text("import os, sys; print(os.getcwd(), sys.argv[1:], __name__)")
    (tmp_path / "script.py").write_text("import neighbour, os; print(os.environ['GIVEN'], __file__)")
    environment = os.environ | {"GIVEN": "here", "PYTHONPATH": ""}
    for words, folder in ((["script.py", "a"], tmp_path), ([str(tmp_path / "script.py")], "/"),
                          (["-m", "neighbour", "b"], tmp_path), (["-m", "neighbour"], "/")):  # fmt: skip
        ends = [
            outcome(executable, words, cwd=folder, env=environment)
            for executable in (python, sys.executable)
        ]
        if ends[0][0] == 0:
            assert ends[0] == ends[1]
        else:  # the traceback differs in where it begins
            assert ends[0][0] == ends[1][0] == 1


WAITS = """
import time
try:
    print(1, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print(2)
"""


@pytest.mark.parametrize(
    ("number", "code", "printed"), [(signal.SIGINT, 0, "2\n"), (signal.SIGTERM, -signal.SIGTERM, "")]
)
def test_signals_reach_the_program(python, number, code, printed):
    with subprocess.Popen([python, "-c", WAITS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        process.send_signal(number)
        assert (process.wait(30), process.stdout.read()) == (code, printed)


def test_a_program_dies_with_its_client(python):
    code = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert pid != process.pid
        process.kill()
        end = time.monotonic() + 30
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{pid}")
