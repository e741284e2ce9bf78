"""Start Python programs in milliseconds: in forks of a process that has imported the large libraries.

`fork_client.py` is the other half. In place of ``python`` it takes ``-m MODULE``, ``-c CODE`` or a script,
and passes on its arguments, folder, environment, standard streams and the signals it gets. recursivemix
is not imported before the fork, so that a program imports the package of its own ``PYTHONPATH``. What it
starts through ``sys.executable`` is a fork as well.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
import warnings
from pathlib import Path

LIBRARIES = (
    "lightning", "timm", "torchvision.transforms.v2", "torchvision.models.detection", "tensorboard",
    "torch.utils.tensorboard", "torchmetrics.classification", "torchmetrics.detection", "torch._dynamo",
    "jsonargparse", "rich.console", "scipy.stats", "yaml", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "pandas", "faster_coco_eval", "sklearn.datasets",
    "sklearn.model_selection",
)  # fmt: skip


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Read a request and the three open files that come with it."""
    header, files, _, _ = socket.recv_fds(connection, 8, 3, socket.MSG_WAITALL)
    content = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
    return json.loads(content or "{}"), files


def serve(listener: socket.socket) -> tuple[dict, list[int]]:
    """Fork for each request, forever; return the request in the fork. Its client gets the exit code."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor of the process
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(0, select.POLLIN)  # closed when the tests are over, however they end
    connections: dict[int, int] = {}
    while True:
        for number, _ in poll.poll()[:1]:  # one at a time: descriptors are used again
            if number == 0:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            if number == listener.fileno():
                connection, _ = listener.accept()
                request, files = receive(connection)
                if not request:  # the client was killed
                    connection.close()
                    continue
                pid = os.fork()
                if not pid:
                    for _, other in running.values():
                        other.close()
                    connection.close()
                    listener.close()
                    return request, files
                for file in files:
                    os.close(file)
                process = os.pidfd_open(pid)
                running[process] = pid, connection
                connections[connection.fileno()] = process
                poll.register(process, select.POLLIN)
                poll.register(connection, select.POLLIN)
            elif number in running:
                pid, connection = running.pop(number)
                _, status = os.waitpid(pid, 0)
                poll.unregister(number)
                os.close(number)
                if connections.pop(connection.fileno(), None) is not None:
                    poll.unregister(connection)
                    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
                connection.close()
            elif number in connections:
                pid, connection = running[connections[number]]
                signals = connection.recv(100)
                for one in signals or [signal.SIGKILL]:  # nothing: the client was killed
                    os.kill(pid, one)
                if not signals:
                    poll.unregister(number)
                    del connections[number]


def run(words: list[str]) -> None:
    """Run what follows the word ``python``."""
    while words[0] == "-W":
        warnings.simplefilter(words[1])
        words = words[2:]
    kind, *rest = words
    sys.argv = words
    if kind == "-c":
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(str(Path(kind).absolute()), run_name="__main__")


def become(request: dict, files: list[int], libraries: list[str]) -> None:
    """Take over the client's files, folder and environment, run its program, and exit as it would."""
    import torch

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.executable = request["executable"]
    sys.path[:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *libraries]
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code = 0
    try:
        run(request["words"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 255)


def main() -> None:
    """Import the libraries, and serve until the standard input is closed."""
    listener = socket.socket(socket.AF_UNIX)
    with warnings.catch_warnings(action="ignore"):
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collections in the forks pass over what the libraries hold
    listener.bind(sys.argv[1])
    listener.listen(50)
    print("ready", flush=True)
    libraries = list(sys.path)
    become(*serve(listener), libraries)


if __name__ == "__main__":
    main()
