"""The HTTP endpoint: is it alive, is it ready, is it well, what has it done.

    /live     200 while the daemon answers
    /ready    200 when the tunnel carries the registry's members, else 503
    /health   every component with its reason; 200, or 503 when a person should look
    /stats    counters and peers, for `dstack-vpn status` and for people
    /peers    the peers alone: who they are, how they are reached, what they carried
    /metrics  the same for Prometheus, where the view has it

It answers GET only, and tells no secret: what it shows is made from `View`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import structlog
from aiohttp import web

from dstack_vpn.core.health import Health
from dstack_vpn.errors import DstackVpnError

_log = structlog.get_logger(component="web")


class View(Protocol):
    """What can be seen of a node."""

    def health(self) -> Health:
        """The verdict now."""

    def stats(self) -> dict[str, Any]:
        """Counters and peers, as JSON can hold them."""


class HealthServer:
    """Serves a view over HTTP."""

    def __init__(
        self, view: View, host: str, port: int, metrics: Callable[[], tuple[str, bytes]] | None = None
    ) -> None:
        """``metrics`` gives a content type and a body."""
        self._view, self._host, self._port, self._metrics = view, host, port, metrics

    async def run(self) -> None:
        """Serve until cancelled; raises `DstackVpnError` where the port can't be had."""
        app = web.Application(client_max_size=1024)
        for path, handler in self._routes().items():
            app.router.add_get(path, _plain(handler))
        if self._metrics is not None:
            app.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._bind(runner)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _bind(self, runner: web.AppRunner) -> None:
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            raise DstackVpnError(
                f"HEALTH_CHECK_HOST and HEALTH_CHECK_PORT: can't listen on {self._host}:{self._port}: "
                f"{error.strerror}. Choose another port, or HEALTH_CHECK_PORT=0 to do without"
            ) from error
        _log.info("web.listening", host=self._host, port=self._port)

    def _routes(self) -> dict[str, Callable[[], tuple[int, dict[str, Any]]]]:
        return {
            "/live": self._live,
            "/ready": self._ready,
            "/health": self._health,
            "/stats": self._stats,
            "/peers": self._peers,
        }

    async def _scrape(self, _: web.Request) -> web.Response:
        assert self._metrics is not None
        content_type, body = self._metrics()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    def _live(self) -> tuple[int, dict[str, Any]]:
        return 200, {"live": True}

    def _ready(self) -> tuple[int, dict[str, Any]]:
        ready = self._view.health().ready
        return (200 if ready else 503), {"ready": ready}

    def _health(self) -> tuple[int, dict[str, Any]]:
        health = self._view.health()
        body = {
            "status": health.status,
            "ready": health.ready,
            "components": [asdict(component) for component in health.components],
        }
        return (200 if health.healthy else 503), body

    def _stats(self) -> tuple[int, dict[str, Any]]:
        return 200, self._view.stats()

    def _peers(self) -> tuple[int, dict[str, Any]]:
        stats = self._view.stats()
        if "peers" not in stats:
            return 404, {"error": "a relay has no peers: see /stats"}
        return 200, {"peers": stats["peers"]}


def _plain(answer: Callable[[], tuple[int, dict[str, Any]]]) -> Callable[[web.Request], Any]:
    async def handle(_: web.Request) -> web.Response:
        status, body = answer()
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.json_response(body, status=status, headers=headers)

    return handle
