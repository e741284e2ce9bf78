"""HTTP connections of the studio: one request each, which must arrive in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 5.0
"""Seconds for a request to arrive; its body has more time by its length."""
LEAST_RATE = 2**18
"""Bytes per second at which a request must arrive."""
READING = 30.0
"""Seconds for the client to read a response."""
MOST_CONNECTIONS = 256


class ImpatientConnection(H11Protocol):
    """Closes a connection whose request or response takes too long, and connections above the limit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: list[asyncio.TimerHandle] = []
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._opened = self.loop.time()
        self._check_request()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._timers.append(self.loop.call_later(READING, self.transport.abort))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _check_request(self) -> None:
        """End the connection if its request is late, or check again when it would be."""
        if self.cycle is not None and (not self.cycle.more_body or self.cycle.response_complete):
            return
        remaining = self._opened + PATIENCE + self._received / LEAST_RATE - self.loop.time()
        if remaining <= 0:
            self.transport.abort()
        else:
            self._timers = [self.loop.call_later(remaining, self._check_request)]
