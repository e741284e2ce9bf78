"""Act as ``python`` for a program that `fork_server.py` runs.

    python -I -S fork_client.py EXECUTABLE SOCKET -m MODULE ...

EXECUTABLE is what the program finds as ``sys.executable``.
"""

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Send the request, forward signals, and end as the program ends."""
    with socket.socket(socket.AF_UNIX) as server:
        executable, path, *words = sys.argv[1:]
        server.connect(path)
        request = {"executable": executable, "words": words}
        request |= {"folder": os.getcwd(), "environment": dict(os.environ)}
        content = json.dumps(request).encode()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(content)
        answer = server.recv(10)
    code = int(answer)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
