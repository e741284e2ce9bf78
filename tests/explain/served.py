"""A studio on a free port, and requests to it."""

import http.client
import io
import socket
import threading
import time
from contextlib import contextmanager

from PIL import Image

from recursivemix.explain.server import make_server


@contextmanager
def served(studio):
    """Serve a studio in a thread; gives its port."""
    server = make_server(studio)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def ask(port, path, method="GET", body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def picture(size=(40, 30), colour=(200, 30, 30), kind="PNG"):
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, kind)
    return held.getvalue()
