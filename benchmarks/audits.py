"""The calls and bytes of the audits of an unchanged registry, for each hour.

The real daemon follows anvil through a proxy, which records the JSON of each request and of its
reply. The node audits every second, one full cycle is measured (120 audits, one of them a full
reading), and the figures are scaled to the audits of an hour at the default interval. Calls for new
blocks do not count: an audit makes all other calls of an idle node.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web
from tests.anvil import running_anvil

from benchmarks.harness import new_key, quiet_namespace, running_daemon
from dstack_vpn.adapters.contracts import signatures

CYCLE: Final = 120
"""Audits from one full reading of an unchanged registry to the next."""
INTERVAL: Final = 1.0
"""Seconds between audits of the benchmark."""
HOURLY: Final = 3600 / 30
"""Audits in an hour, by the default `SYNC_INTERVAL`."""
LIMIT: Final = 600.0
"""Seconds for one cycle."""


@dataclass
class Recorded:
    """One call of an audit."""

    call: str
    """The selector of an ``eth_call``, or the method."""
    first: bool
    """True if it is the first page, or the revision."""
    sent: int
    """The bytes of the request."""
    received: int = 0
    """The bytes of the reply."""


@dataclass
class Proxy:
    """A proxy in front of an endpoint that records the calls of audits, over both transports."""

    target: str
    """The endpoint's host and port."""
    calls: list[Recorded] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with each call."""
    _open: dict[tuple[int, Any], Recorded] = field(default_factory=dict)
    """The calls without a reply, by connection and id."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Serve on a free port of loopback; yield the port."""
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        async with aiohttp.ClientSession() as client:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request, client)
            text = await request.text()
            self._note_request(id(request), text)
            async with client.post(
                f"http://{self.target}", data=text, headers={"Content-Type": "application/json"}
            ) as reply:
                body = await reply.text()
                self._note_reply(id(request), body)
                return web.Response(text=body, status=reply.status, content_type="application/json")

    async def _websocket(self, request: web.Request, client: aiohttp.ClientSession) -> web.StreamResponse:
        ours = web.WebSocketResponse(max_msg_size=0)
        await ours.prepare(request)
        async with client.ws_connect(f"ws://{self.target}", max_msg_size=0) as theirs:

            async def replies() -> None:
                async for message in theirs:
                    self._note_reply(id(request), message.data)
                    await ours.send_str(message.data)
                await ours.close()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(replies())
                async for message in ours:
                    self._note_request(id(request), message.data)
                    await theirs.send_str(message.data)
                task.cancel()
        return ours

    def _note_request(self, connection: int, text: str) -> None:
        for request in _each(text):
            method, params = request["method"], request.get("params", [])
            if "latest" in params or method == "eth_subscribe":
                continue
            data = params[0]["data"].removeprefix("0x") if method == "eth_call" else ""
            first = data[:8] == signatures.REVISION.hex() or (
                data[:8] == signatures.GET_NODES.hex() and int(data[8:72], 16) == 0
            )
            found = Recorded(data[:8] or method, first, len(json.dumps(request)))
            self.calls.append(found)
            self.news.set()
            self._open[connection, request["id"]] = found

    def _note_reply(self, connection: int, text: str) -> None:
        for reply in _each(text):
            if (found := self._open.pop((connection, reply.get("id")), None)) is not None:
                found.received = len(json.dumps(reply))

    def audits(self) -> list[int]:
        """Return the index of the first call of each audit.

        It is the revision if the node reads it, else the first page.
        """
        revision = signatures.REVISION.hex()
        by_revision = any(x.call == revision for x in self.calls)
        return [i for i, x in enumerate(self.calls) if x.first and (x.call == revision or not by_revision)]


def _each(text: str) -> list[dict[str, Any]]:
    """Return the requests or replies of a message: a batch, or a single one."""
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


async def audits(tokens: int) -> dict[str, Any]:
    """Measure a cycle of audits over each transport."""
    found: dict[str, Any] = {"tokens": tokens}
    with quiet_namespace() as base:
        async with running_anvil() as anvil:
            await anvil.mint_many(tokens)
            for scheme in ("ws", "http"):
                proxy = Proxy(f"127.0.0.1:{anvil.port}")
                (home := base / scheme).mkdir()
                async with proxy.running() as port:
                    settings = {
                        "RPC_URL": f"{scheme}://127.0.0.1:{port}",
                        "CONTRACT_ADDRESS": anvil.contract,
                        "SYNC_INTERVAL": f"{INTERVAL:g}s",
                    }
                    async with running_daemon(home, new_key(), **settings):
                        found[scheme] = _hourly(await _cycle(proxy))
    return found


async def _cycle(proxy: Proxy) -> list[Recorded]:
    """Return the calls of `CYCLE` audits. The first ones follow the start, and do not count."""
    async with asyncio.timeout(LIMIT):
        while len(proxy.audits()) < CYCLE + 5:
            proxy.news.clear()
            await proxy.news.wait()
    first = proxy.audits()[4:]
    return proxy.calls[first[0] : first[CYCLE]]


def _hourly(calls: list[Recorded]) -> dict[str, Any]:
    """Return the calls and the bytes of an hour of audits."""
    cycles = HOURLY / CYCLE
    return {
        "calls_per_hour": round(len(calls) * cycles),
        "kb_per_hour": round(sum(x.sent + x.received for x in calls) * cycles / 1000, 1),
        "calls": {name: sum(x.call == name for x in calls) for name in sorted({x.call for x in calls})},
    }


ALL: Final = {f"audits-{tokens}": functools.partial(audits, tokens) for tokens in (5, 100, 1000, 10_000)}
