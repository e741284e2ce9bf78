"""The server of the studio.

The server listens on the loopback interface only, answers no other host name, and reads no file but those
it was started with.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from recursivemix.data.printable import one_line
from recursivemix.mixing import MIXERS
from recursivemix.report.page import templates

from .studio import MOST_BYTES, MOST_STEPS, Studio, TooLargeError, settings_from, sliders_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn import Server

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MISSING = "the studio needs starlette and uvicorn: pip install 'recursivemix[studio]'"


def make_server(studio: Studio) -> Server:
    """Create the server; raise ValueError if starlette or uvicorn is not installed."""
    try:
        from uvicorn import Config, Server

        from .connection import ImpatientConnection

        app = guarded(make_app(studio))
    except ModuleNotFoundError as error:
        raise ValueError(MISSING) from error
    config = Config(
        app,
        http=ImpatientConnection,
        ws="none",
        lifespan="off",
        log_level="warning",
        headers=[("Connection", "close")],  # otherwise the rest of a refused body would be read
        timeout_graceful_shutdown=1,
    )
    return Server(config)


def guarded(app: ASGIApp) -> ASGIApp:
    """Log an error in one line, without a traceback, and ignore requests that are cut off."""
    from starlette.requests import ClientDisconnect

    async def guarded_app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except (ClientDisconnect, asyncio.CancelledError):
            return
        except Exception as error:  # the client has its answer by `failed`
            logging.getLogger("uvicorn.error").error("%s: %s", scope["path"], one_line(error))

    return guarded_app


def make_app(studio: Studio) -> Starlette:
    """Create the application."""
    from anyio import CapacityLimiter, to_thread
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.responses import Response as PlainResponse
    from starlette.routing import Route

    page, style, script = page_files(studio)
    worker = CapacityLimiter(1)

    async def computed(function: Callable[[Any], str], argument: Any) -> str:
        """Call a function in the one worker thread."""
        return await to_thread.run_sync(function, argument, limiter=worker)

    def fixed(content: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            return PlainResponse(content, media_type=kind, headers=HEADERS)

        return respond

    async def mixed(request: Request) -> Response:
        try:
            settings = settings_from(request.query_params)
            return HTMLResponse(await computed(studio.show, settings), headers=HEADERS)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=400, headers=HEADERS)

    async def upload(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
            return PlainTextResponse("requests of other pages are refused", 403, HEADERS)
        try:
            name = await computed(studio.keep, await read_body(request))
            return JSONResponse({"image": name}, headers=HEADERS)
        except ValueError as error:
            status = 413 if isinstance(error, TooLargeError) else 400
            return PlainTextResponse(str(error), status, HEADERS)

    async def failed(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"failed: {one_line(error)}", 500, HEADERS)

    return Starlette(
        routes=[
            Route("/", fixed(page, "text/html")),
            Route("/studio.css", fixed(style, "text/css")),
            Route("/studio.js", fixed(script, "text/javascript")),
            Route("/mixed", mixed),
            Route("/image", upload, methods=["POST"]),
        ],
        exception_handlers={Exception: failed},
        # Another page could point a host name of its own at this machine.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


async def read_body(request: Request) -> bytes:
    """Read the body of a request; raise TooLargeError after `MOST_BYTES`, without reading the rest."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise TooLargeError(f"an image must have at most {MOST_BYTES // 2**20} MiB")
    return bytes(content)


def page_files(studio: Studio) -> tuple[str, str, str]:
    """Return the page, its style sheet and its script."""
    folder = resources.files(__package__)
    report = resources.files("recursivemix.report")
    names = {name: sliders_of(name) for name in MIXERS}
    template = templates("explain").get_template("studio.html.jinja")
    page = template.render(
        mixers=names,
        sliders=json.dumps(names),
        most_steps=MOST_STEPS,
        most_bytes=MOST_BYTES,
        has_maps=studio.trained is not None,
    )
    styles = ((report, "page.css"), (report, "grid.css"), (folder, "studio.css"))
    style = "".join((place / name).read_text() for place, name in styles)
    return page, style, (folder / "studio.js").read_text()
