"""The HTTP server that a node and a relay share.

    /live     200 while the process answers
    /ready    200 when the tunnel carries the registry's members, else 503
    /health   each component with its reason and start time; 200, or 503 if one needs attention
    /stats    counters, for `dstack-vpn status` and for operators
    /metrics  the same for Prometheus, if the view has it

A node adds `api` and `page`. The server answers GET only and reveals no secret. It limits
connections and their idle time (`connections`), requests by source (`core.limits.pace`), and access
(`access`); aiohttp limits the size of request heads.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import structlog
from aiohttp import web

from dstack_vpn.adapters.web.access import Policy, peer_of, source_of
from dstack_vpn.adapters.web.connections import Connections
from dstack_vpn.adapters.web.documents import Document, Later, to_json
from dstack_vpn.adapters.web.listening import Listening
from dstack_vpn.core.limits.pace import Limiter, Pace
from dstack_vpn.core.limits.shares import Kind, Source
from dstack_vpn.core.observe.health import Health
from dstack_vpn.errors import DstackVpnError

_log = structlog.get_logger(component="web")

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN: Final = frozenset({"/live", "/ready", "/health"})
"""Paths that need no token."""
PACE: Final = Pace()
"""The rate limit for a source."""
PROXIED: Final = Pace(burst=800, burst_of_kind=1600, longest=0.25)
"""The rate limit for a trusted proxy's requests about one client.

A page has hundreds of parts, and a browser requests a hundred of them at once. Each request holds
one of the proxy's connections, so it is delayed for less time.
"""
DEADLINE: Final = 10.0
"""The time limit for an answer in seconds; streams have none."""
_LINE, _FIELD, _FIELDS = 8190, 8190, 64
"""The maximum size of a request line and of a header field in bytes, and the number of fields."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "dstack-vpn",
}


class View(Protocol):
    """The public view of a process."""

    def health(self) -> Health:
        """Return the current health."""

    def stats(self) -> dict[str, Any]:
        """Return the state and the counters, as JSON values."""

    def metrics(self) -> tuple[str, bytes]:
        """Return the content type and the body for Prometheus."""


class Route(NamedTuple):
    """A path and its handler."""

    path: str
    handler: Handler
    method: str = "GET"
    """``*`` for all methods."""


class Part(Protocol):
    """Adds routes to a server."""

    open_paths: frozenset[str]
    slow_paths: frozenset[str]
    """Paths without a time limit for the answer."""

    def routes(self) -> Iterable[Route]:
        """Return the routes that it serves."""

    async def close(self) -> None:
        """Release resources; called when the server ends."""


class HttpServer:
    """Serves a view over HTTP."""

    def __init__(
        self, host: str, port: int, policy: Policy, health: Callable[[], Health], parts: Iterable[Part] = ()
    ) -> None:
        self._listening, self._policy, self._health = Listening(host, port), policy, health
        self._parts = tuple(parts)
        self._open = OPEN.union(*(part.open_paths for part in self._parts))
        self._slow = frozenset[str]().union(*(part.slow_paths for part in self._parts))
        self._limiter, self._checks, self._proxied = Limiter(PACE), Limiter(PACE), Limiter(PROXIED)
        self._sources = policy.sources
        self.connections = Connections(self._sources)
        self.answers: Counter[int] = Counter()
        """Answers by status."""

    @property
    def problem(self) -> str | None:
        """The reason that clients can't connect; None if they can."""
        return self._listening.problem

    async def run(self) -> None:
        """Serve until cancelled. Binding an unavailable port is tried again (`listening`)."""
        app = web.Application(client_max_size=1024, middlewares=[self._bounded])
        app.on_response_prepare.append(_headers)
        for path, handler, method in (*self._own(), *(r for part in self._parts for r in part.routes())):
            if method == "GET":
                app.router.add_get(path, handler, allow_head=path not in self._slow)
            else:
                app.router.add_route(method, path, handler)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_quiet(),
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=self.connections.patience,
            lingering_time=1.0,
            read_bufsize=16 * 1024,
            max_line_size=_LINE,
            max_field_size=_FIELD,
            max_headers=_FIELDS,
        )
        await runner.setup()
        assert runner.server is not None
        try:
            await self._listening.serve(self.connections.guard(runner.server))
        finally:
            for part in self._parts:
                await part.close()
            await runner.cleanup()

    # -- every request -----------------------------------------------------------------------------

    @web.middleware
    async def _bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        self.connections.busy(transport)
        try:
            answer = await self._answer(request, handler)
        finally:
            self.connections.idle(transport)
        self.answers[answer.status] += 1
        return answer

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_open = request.path in self._open
        if self.connections.in_lobby(request.transport):
            return await self._in_lobby(request, handler, is_open=is_open)
        by_proxy = self._policy.asks_for_a_client(request, peer_of(request))
        wait = self._turn(request, by_proxy=by_proxy, is_open=is_open)
        if wait is None:
            return await self._too_many(by_proxy=by_proxy)
        if wait:
            await asyncio.sleep(wait)  # slows a client that sends requests in a loop
        if refusal := self._policy.refusal(request, is_open=is_open):
            more = {"WWW-Authenticate": 'Bearer realm="dstack-vpn"'} if refusal.status == 401 else {}
            return problem(refusal.status, refusal.reason, more)
        if request.can_read_body:
            return problem(413, "a request must not have a body")
        return await self._handle(request, handler)

    async def _in_lobby(self, request: web.Request, handler: Handler, *, is_open: bool) -> web.StreamResponse:
        """Answer one health request on a connection without a place, and refuse all others."""
        response: web.StreamResponse
        refusal = self._policy.refusal(request, is_open=True) if is_open else None
        if not is_open or request.can_read_body:
            response = problem(503, "too many connections", {"Retry-After": "1"})
        elif refusal is not None:
            response = problem(refusal.status, refusal.reason)
        else:
            response = await self._handle(request, handler)
        response.force_close()
        return response

    def _turn(self, request: web.Request, *, by_proxy: bool, is_open: bool) -> float | None:
        """Return the seconds until a request may be answered; None if it is refused.

        A forward-auth request of a trusted proxy counts for the client that its headers name. Any
        other request counts for the other end of its connection, regardless of its headers. Health
        checks are counted separately, and those that show a proxy separately from the others:
        requests that a proxy on this machine forwards do not delay this machine's checks.
        """
        now = time.monotonic()
        if by_proxy:
            return self._proxied.take(self._sources.of(self._policy.client(request)), now)
        source = source_of(request, self._sources)
        if not is_open:
            return self._limiter.take(source, now)
        if source.kind is Kind.OURS and self._policy.by_proxy(request):
            source = Source(source.kind, f"{source.name}, by a proxy")
        return self._checks.take(source, now, shared=False)

    async def _too_many(self, *, by_proxy: bool) -> web.Response:
        """Refuse a request.

        nginx turns any answer to auth_request except 2xx, 401 and 403 into a 500.
        """
        if not by_proxy:
            await asyncio.sleep(PACE.longest)
        return problem(403 if by_proxy else 429, "too many requests", {"Retry-After": "1"})

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer within the deadline, with errors in JSON.

        Any other exception is logged and answered with 500: a bug in a handler must not end the
        node.
        """
        try:
            if request.path in self._slow:
                return await handler(request)
            async with asyncio.timeout(DEADLINE):
                return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            return problem(405, "only GET is supported", {"Allow": ", ".join(sorted(error.allowed_methods))})
        except web.HTTPException as error:
            return problem(error.status, error.reason)
        except TimeoutError:
            return problem(503, "the answer took too long", {"Retry-After": "5"})
        except DstackVpnError as error:
            return problem(400, str(error))
        except Exception as error:  # noqa: BLE001 - see above
            _log.error("web.failed", path=request.path, problem=f"{type(error).__name__}: {error}")
            return problem(500, "internal error: see the log")

    # -- common to all views -----------------------------------------------------------------------

    def _own(self) -> Iterable[Route]:
        return Route("/live", self._live), Route("/ready", self._ready), Route("/health", self._well)

    async def _live(self, _: web.Request) -> web.Response:
        return answer({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        ready = self._health().ready
        return answer({"ready": ready}, 200 if ready else 503)

    async def _well(self, _: web.Request) -> web.Response:
        health = self._health()
        body = {
            "status": health.status,
            "ready": health.ready,
            "components": [asdict(component) for component in health.components],
        }
        return answer(body, 200 if health.healthy else 503)


class Documents:
    """Serves documents that are written in a thread; implements `Part`."""

    open_paths = slow_paths = frozenset[str]()

    def __init__(self, documents: dict[str, Callable[[], Awaitable[Later]]]) -> None:
        self._documents = {path: Document(gather) for path, gather in documents.items()}

    def problem(self, path: str) -> str | None:
        """Return the reason of the last failure to write the document at a path; else None."""
        return self._documents[path].problem

    def routes(self) -> Iterable[Route]:
        """See `Part.routes`."""
        return (Route(path, _handler(document)) for path, document in self._documents.items())

    async def close(self) -> None:
        """See `Part.close`."""


def of_view(view: View) -> Documents:
    """Return the documents of a view, for a process without an API."""

    async def stats() -> Later:
        shown = view.stats()
        return lambda: to_json(shown)

    async def metrics() -> Later:
        shown = view.metrics()
        return lambda: shown

    return Documents({"/stats": stats, "/metrics": metrics})


def _handler(document: Document) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        content_type, body = await document.get()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return handle


def answer(
    body: Any,  # noqa: ANN401 - any JSON value
    status: int = 200,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> web.Response:
    """Return an answer in JSON."""
    content_type, text = to_json(body)
    return web.Response(body=text, status=status, headers={**headers, "Content-Type": content_type})


def problem(status: int, reason: str, headers: Mapping[str, str] = MappingProxyType({})) -> web.Response:
    """Return an answer that gives the reason of an error."""
    return answer({"error": reason}, status, headers)


def _quiet() -> logging.Logger:
    """Return aiohttp's logger, muted: any client can cause a traceback with a malformed request."""
    logger = logging.getLogger("dstack_vpn.web")
    logger.setLevel(logging.CRITICAL + 1)
    return logger


async def _headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = _HEADERS["Server"]
