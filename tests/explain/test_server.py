"""What the studio's server endures: endless, half-open, broken and many requests."""

import contextlib
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import ask, picture, served

from recursivemix.data.formats.digits import digits
from recursivemix.explain import connection
from recursivemix.explain.studio import MOST_BYTES, Studio

BLOCK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
"""64 KiB as one chunk."""
UPLOAD = b"POST /image HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class Noted(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture(autouse=True)
def log(port):
    """The server's log, which must stay without tracebacks."""
    handler = Noted()
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "uvicorn.asgi", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.records
    for logger in loggers:
        logger.removeHandler(handler)
    assert not [record for record in handler.records if record.exc_info]
    assert not [record for record in handler.records if "\n" in record.getMessage()]


@pytest.fixture
def studio():
    return Studio(digits())


@pytest.fixture
def port(studio, monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE", 1.0)
    with served(studio) as number:
        yield number


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def send_until_refused(client, block, most):
    """How many bytes of an endless body the server takes."""
    sent = 0
    try:
        while sent < most:
            client.sendall(block)
            sent += len(block)
    except OSError:
        pass
    return sent


def is_closed(client, seconds):
    """Whether the server closes the connection in this time."""
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize(
    "target", ["POST /image", "POST /mixed", "POST /nowhere", "GET /mixed", "PUT /image", "DELETE /"]
)
@pytest.mark.parametrize("encoding", ["Transfer-Encoding: chunked", f"Content-Length: {2**34}"])
def test_an_endless_body_is_cut(port, target, encoding):
    block = BLOCK if "chunked" in encoding else b"x" * 0x10000
    with connect(port) as client:
        client.sendall(f"{target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{encoding}\r\n\r\n".encode())
        sent = send_until_refused(client, block, 8 * MOST_BYTES)
        # What the socket's buffers take comes on top of what is read.
        assert sent < MOST_BYTES + 8 * 2**20
        assert is_closed(client, 5)
    assert ask(port, "/")[0].status == 200


def test_an_upload_above_the_limit_is_refused_in_words(port):
    answer, text = ask(port, "/image", "POST", b"x" * (MOST_BYTES + 1))
    assert (answer.status, text) == (413, "an image must have at most 8 MiB")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        UPLOAD + b"Content-Length: 100\r\n\r\nx",
        UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_half_open_connection_ends(port, start):
    with connect(port) as client:
        client.sendall(start)
        assert is_closed(client, 10)


def test_a_dripping_request_ends(port):
    """One byte at a time, each within any time limit between two bytes."""
    begun = time.monotonic()
    with connect(port) as client:
        try:
            for letter in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
                client.sendall(bytes([letter]))
                time.sleep(0.05)
        except OSError:
            pass
    assert time.monotonic() - begun < 10


def test_many_half_open_connections_keep_nobody_out(port, monkeypatch):
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 60)
    clients = [connect(port) for _ in range(90)]
    time.sleep(0.2)
    closed = sum(is_closed(client, 0.01) for client in clients[60:])
    assert closed > 20  # above the limit at once
    assert all(is_closed(client, 10) for client in clients)
    for client in clients:
        client.close()
    assert ask(port, "/")[0].status == 200


def test_an_upload_that_breaks_off_is_no_error(port, studio, log):
    for _ in range(5):
        with connect(port) as client:
            client.sendall(UPLOAD + b"Content-Length: 5000\r\n\r\n" + picture()[:50])
    assert ask(port, "/")[0].status == 200
    assert not studio.uploads
    assert not log


def test_a_request_on_a_connection_is_the_only_one(port):
    with connect(port) as client:
        client.sendall(2 * b"GET /studio.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        content = b""
        while part := client.recv(65536):
            content += part
    assert content.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in content.lower()


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x00\xff\x00\xff",
        b"GET /\xff\xfe HTTP/1.1",
        b"GET /mixed?step=%ff%fe%00 HTTP/1.1",
        b"GET /mixed?step=" + b"9" * 6000 + b" HTTP/1.1",
        b"GET /mixed?seed=%D9%A3&mixer=%00 HTTP/1.1",
        b"GET /mixed?prob=1e999&alpha=-inf HTTP/1.1",
        b"GET http://evil.example/ HTTP/1.1",
        b"GET / HTTP/9.9",
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 200_000,
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x",
        b"POST /image HTTP/1.1\r\nContent-Length: -5",
        b"POST /image HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"POST /image HTTP/1.1\r\nOrigin: \xff\xff\r\nContent-Length: 0",
    ],
)
def test_a_malformed_request_is_answered_or_ends(port, request_line):
    with connect(port) as client:
        with contextlib.suppress(OSError):
            client.sendall(request_line + b"\r\nHost: 127.0.0.1\r\n\r\n")
        assert is_closed(client, 10)
    assert ask(port, "/")[0].status == 200


def test_an_unexpected_error_is_one_line(port, studio, log, monkeypatch):
    def fail(settings):
        raise RuntimeError("no\nway")

    monkeypatch.setattr(studio, "show", fail)
    answer, text = ask(port, "/mixed")
    assert (answer.status, text) == (500, "failed: no way")
    deadline = time.monotonic() + 10
    while not log and time.monotonic() < deadline:  # the server logs after it has answered
        time.sleep(0.01)
    assert [record.getMessage() for record in log] == ["/mixed: no way"]
    log.clear()


def resident() -> float:
    """Memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_memory_returns_after_large_uploads(port):
    """Images of 36 million pixels, which are 144 MB when decoded."""
    body = picture((6000, 6000), kind="JPEG")
    assert ask(port, "/image", "POST", body)[0].status == 200
    before = resident()
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda _: ask(port, "/image", "POST", body)[0].status, range(5)))
    assert answers == [200] * 5
    assert resident() - before < 60
