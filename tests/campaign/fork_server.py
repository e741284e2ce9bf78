"""Run commands in forks of a process that has imported everything: a start takes milliseconds.

Reads one JSON object a line: ``{"words": [...], "log": PATH}`` starts a command and answers its process id,
``{"wait": PID}`` answers its exit code, negative for a signal.
"""

import importlib
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


def run(words: list[str], log: str) -> int:
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
        from recursivemix.cli import main

        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 71
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            print(run(asked["words"], asked["log"]), flush=True)


if __name__ == "__main__":
    main()
