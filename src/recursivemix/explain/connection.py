"""HTTP connections of the studio: one request each, which must arrive in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 5.0
"""Seconds for a request to arrive, its body included."""
LIFETIME = 120.0
"""Seconds for a connection, the computation and a slow reader included."""
MOST_CONNECTIONS = 256


class ImpatientConnection(H11Protocol):
    """Closes a connection whose request or response takes too long, and connections above the limit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._timers = [
            self.loop.call_later(PATIENCE, self._end_incomplete_request),
            self.loop.call_later(LIFETIME, transport.abort),
        ]

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _end_incomplete_request(self) -> None:
        if self.cycle is None or (self.cycle.more_body and not self.cycle.response_complete):
            self.transport.abort()
