"""Run commands in forks of a process that has imported everything: a start takes milliseconds.

Reads one JSON object per line. ``{"words": [...], "log": PATH}`` starts a command and answers its process
id, ``{"wait": PID}`` answers its exit code, negative for a signal. With ``"full_after": N`` the disk is
full at the N-th write to a file, with ``"unprivileged": true`` root is refused what permissions refuse,
``"environment": {...}`` sets variables, and ``"module": NAME`` calls the ``main`` of another module.
"""

import atexit
import builtins
import contextlib
import ctypes
import errno
import importlib
import io
import json
import os
import signal
import sys

import torch

MODULES = (
    "lightning", "timm", "torchvision", "tensorboard", "recursivemix.cli.train", "recursivemix.cli.running",
    "recursivemix.tasks.classification", "recursivemix.explain.gallery", "recursivemix.cli.measure",
    "torch.utils.tensorboard", "torchmetrics.classification", "recursivemix.tasks.detection.create",
    "recursivemix.tasks.segmentation.model", "torch._dynamo",
)  # fmt: skip


class FullDisk:
    """Replaces ``open``: files that are written share a number of writes, the next one fails."""

    def __init__(self, writes: int) -> None:
        self.writes = writes
        self.open = io.open

    def __call__(self, file: object, mode: str = "r", *more: object, **options: object) -> object:
        opened = self.open(file, mode, *more, **options)
        if set(mode) & set("wax+") and not str(file).startswith("/dev/"):
            original = opened.write

            def write(content: object) -> int:
                self.writes -= 1
                if self.writes < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return original(content)

            opened = Written(opened, write)
        return opened


class Written:
    """A file with another ``write``."""

    def __init__(self, file: object, write: object) -> None:
        self.file, self.write = file, write

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> object:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def drop_privileges() -> None:
    """Give up root's capabilities to pass over permissions, capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low words, then high ones
    assert libc.capget(header, sets) == 0
    for place in range(3):
        sets[place] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


def run(
    words: list[str],
    log: str,
    module: str = "recursivemix.cli",
    *,
    full_after: int | None = None,
    unprivileged: bool = False,
    environment: dict[str, str] | None = None,
) -> int:
    """Run a command in a session of its own; return the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        os.environ.update(environment or {})
        main = importlib.import_module(module).main
        if full_after is not None:
            builtins.open = io.open = FullDisk(full_after)
        if unprivileged:
            drop_privileges()
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 71
    finally:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            atexit._run_exitfuncs()  # they end the processes that read images
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer until told to stop: other forks of the asking process may hold the input open."""
    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "stop" in asked:
            return
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            print(run(**asked), flush=True)


if __name__ == "__main__":
    main()
