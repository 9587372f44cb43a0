"""An HTTP server on a free port, with a fixed view."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from tests.ports import free_port

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.api import Api
from dstack_vpn.adapters.web.documents import Later, to_json
from dstack_vpn.adapters.web.server import HttpServer, Part
from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.observe.health import Component, Health, Status
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.observe.event_log import EventLog

WELL = Health(ready=True, components=(Component("chain", Status.OK),))
ILL = Health(ready=False, components=(Component("chain", Status.FAILED, "no endpoint", 5.0),))
TOKEN = "a-token-that-nobody-guesses"
OWNER = "0x" + "ab" * 20
MEMBER = {
    "token": 1,
    "node": "web-1",
    "owner": OWNER,
    "public_key": str(PublicKey(b"\1" * 32)),
    "self": False,
}


@dataclass
class FixedView:
    """An `ApiView` of the network 10.77.0.0/16 with members at 10.77.0.2 and 127.0.0.9."""

    feed: EventLog = field(default_factory=lambda: EventLog(SystemClock()))
    version: Mapping[str, Any] = field(
        default_factory=lambda: {"version": "1.2.3", "python": "3", "api": "1"}
    )
    broken: bool = False

    async def stats(self) -> Later:
        if self.broken:
            raise RuntimeError("a bug")
        return lambda: to_json({"peers": []})

    async def peers(self) -> Later:
        return lambda: to_json({"now": 1.0, "peers": []})

    async def metrics(self) -> Later:
        return lambda: ("text/plain; version=0.0.4", b"x 1\n")

    async def peer(self, node_id: str) -> dict[str, Any] | None:
        return {"history": []} if node_id == "web-1" else None

    def contract(self) -> dict[str, Any]:
        return {"tags": ["web"]}

    def policy(self) -> dict[str, Any]:
        return {"in_force": None}

    def explain(self, source: str | IPAddress, destination: str | IPAddress, ports: str) -> dict[str, Any]:
        return {"asked": [type(source).__name__, type(destination).__name__, ports]}

    def decide(self, subject: str | PublicKey | IPAddress) -> dict[str, Any]:
        return {"subject": type(subject).__name__}

    def whois(self, address: IPAddress) -> dict[str, Any] | None:
        return {"ip": str(address), **MEMBER} if str(address) in {"10.77.0.2", "127.0.0.9"} else None

    def is_ours(self, address: IPAddress) -> bool:
        return str(address).startswith("10.77.")

    def is_member(self, address: IPAddress) -> bool:
        return self.whois(address) is not None


@dataclass
class Serving:
    """A running server."""

    url: str
    port: int
    server: HttpServer

    async def get(
        self, path: str, method: str = "GET", source: str | None = None, **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Return status, body and headers. ``source`` is the local address of the request."""
        local = None if source is None else (source, 0)
        async with (
            aiohttp.TCPConnector(local_addr=local) as connector,
            aiohttp.ClientSession(connector=connector) as client,
            client.request(method, self.url + path, headers=headers) as reply,
        ):
            is_json = reply.content_type == "application/json"
            body = await (reply.json() if is_json and method != "HEAD" else reply.text())
            return reply.status, body, reply.headers

    async def status(self, path: str, **headers: str) -> int:
        return (await self.get(path, **headers))[0]


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Wait until the condition is true. Fail after ``timeout`` seconds."""
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    view: FixedView | None = None,
    policy: Policy | None = None,
    health: Health = WELL,
    parts: tuple[Part, ...] | None = None,
    patience: float | None = None,
) -> AsyncIterator[Serving]:
    """Run a server, by default with the whole API and a fixed view."""
    view, policy, port = view or FixedView(), policy or Policy(), free_port()
    parts = (Api(view, policy),) if parts is None else parts
    server = HttpServer("127.0.0.1", port, policy, lambda: health, parts)
    if patience is not None:
        server.connections.patience = patience
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        try:
            yield Serving(f"http://127.0.0.1:{port}", port, server)
        finally:
            running.cancel()
