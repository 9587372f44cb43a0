"""A proxy in front of an RPC endpoint that counts calls, notifications and bytes.

    daemon -- TCP --> counter of TCP bytes -- unix socket --> counter of messages --> anvil

The bytes of messages are the payload of WebSocket frames and the bodies of HTTP. The bytes of the
connection also have the headers of HTTP, and the frames and the handshake of WebSocket. Headers of
blocks are extended to the size of a public network's (`headers`).
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from benchmarks.rpc.headers import encoded, is_header, padded
from dstack_vpn.core.chain.usage import Usage, shares

NEW_HEADS: Final = "newHeads"
LOGS: Final = "logs"
PUSHED: Final = frozenset({NEW_HEADS, LOGS})
"""The names under which notifications are counted. They are not calls."""
UNKNOWN: Final = "unknown"
"""The name of replies without a request."""


@dataclass(frozen=True)
class Count:
    """The use of an endpoint: since the start, or in a period."""

    methods: Mapping[str, Usage] = field(default_factory=dict)
    """Calls by method, and notifications by kind."""
    connection: Usage = field(default_factory=Usage)
    """The connections, and the bytes of TCP."""

    def __add__(self, other: "Count") -> "Count":
        names = sorted({*self.methods, *other.methods})
        return Count(
            {name: self.of(name) + other.of(name) for name in names}, self.connection + other.connection
        )

    def __sub__(self, other: "Count") -> "Count":
        names = sorted({*self.methods, *other.methods})
        found = {name: self.of(name) - other.of(name) for name in names}
        return Count(
            {name: each for name, each in found.items() if each != Usage()},
            self.connection - other.connection,
        )

    def of(self, name: str) -> Usage:
        """Return the use of one method."""
        return self.methods.get(name, Usage())

    @property
    def calls(self) -> int:
        """Return the number of requests."""
        return sum(each.count for name, each in self.methods.items() if name not in {*PUSHED, UNKNOWN})

    @property
    def notifications(self) -> int:
        """Return the number of pushed messages."""
        return sum(self.of(name).count for name in PUSHED)

    @property
    def bytes(self) -> int:
        """Return the bytes of messages in both directions."""
        return sum(each.sent + each.received for each in self.methods.values())

    @property
    def tcp_bytes(self) -> int:
        """Return the bytes of the connections in both directions."""
        return self.connection.sent + self.connection.received


@dataclass
class Meter:
    """The proxy of one endpoint of one daemon."""

    target: str
    """The host and port of the real endpoint."""
    _methods: dict[str, Usage] = field(default_factory=dict)
    _connection: Usage = field(default_factory=Usage)

    def count(self) -> Count:
        """Return the use so far."""
        return Count(dict(self._methods), self._connection)

    @asynccontextmanager
    async def running(self, listening: socket.socket, folder: Path) -> AsyncIterator[None]:
        """Serve on a bound socket, which may belong to another network namespace."""
        inner = folder / f"{listening.getsockname()[0]}.sock"
        async with aiohttp.ClientSession() as client:

            async def handle(request: web.Request) -> web.StreamResponse:
                if request.headers.get("Upgrade", "").lower() == "websocket":
                    return await self._websocket(request, client)
                return await self._post(request, client)

            app = web.Application(client_max_size=2**28)
            app.router.add_route("*", "/", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            await web.UnixSite(runner, str(inner)).start()
            outer = await asyncio.start_server(lambda r, w: self._carry(r, w, inner), sock=listening)
            try:
                yield
            finally:
                outer.close()
                await runner.cleanup()

    # -- the connection ----------------------------------------------------------------------------

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: Path) -> None:
        self._connection += Usage(1)
        behind, ahead = await asyncio.open_unix_connection(inner)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, sent: bool) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    self._connection += Usage(0, len(data), 0) if sent else Usage(0, 0, len(data))
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, ahead, sent=True), copy(behind, writer, sent=False))

    # -- messages ----------------------------------------------------------------------------------

    async def _post(self, request: web.Request, client: aiohttp.ClientSession) -> web.Response:
        text, pending = await request.text(), dict[Any, str]()
        self.requested(text, pending)
        headers = {"Content-Type": "application/json"}
        async with client.post(f"http://{self.target}", data=text, headers=headers) as reply:
            body = self.received(await reply.text(), pending)
            return web.Response(text=body, status=reply.status, content_type="application/json")

    async def _websocket(self, request: web.Request, client: aiohttp.ClientSession) -> web.StreamResponse:
        ours, pending = web.WebSocketResponse(max_msg_size=0, compress=False), dict[Any, str]()
        await ours.prepare(request)
        async with client.ws_connect(f"ws://{self.target}", max_msg_size=0) as theirs:

            async def replies() -> None:
                async for message in theirs:
                    await ours.send_str(self.received(message.data, pending))
                await ours.close()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(replies())
                async for message in ours:
                    self.requested(message.data, pending)
                    await theirs.send_str(message.data)
                task.cancel()
        return ours

    def requested(self, text: str, pending: dict[Any, str]) -> None:
        """Count a request or a batch. ``pending`` gets the methods by the id of the calls."""
        calls = _each(json.loads(text))
        pending.update((call.get("id"), call["method"]) for call in calls)
        for call, size in zip(calls, shares(len(text.encode()), len(calls)), strict=True):
            self._add(call["method"], Usage(1, size, 0))

    def received(self, text: str, pending: dict[Any, str]) -> str:
        """Count a reply, a batch of them or a notification; return it with its headers extended."""
        found = json.loads(text)
        messages = [padded(each) for each in _each(found)]
        text = encoded(messages if isinstance(found, list) else messages[0])
        for message, size in zip(messages, shares(len(text.encode()), len(messages)), strict=True):
            if message.get("method") == "eth_subscription":
                kind = NEW_HEADS if is_header(message["params"]["result"]) else LOGS
                self._add(kind, Usage(1, 0, size))
            else:
                self._add(pending.pop(message.get("id"), UNKNOWN), Usage(0, 0, size))
        return text

    def _add(self, method: str, use: Usage) -> None:
        self._methods[method] = self._methods.get(method, Usage()) + use


def total(counts: Iterable[Count]) -> Count:
    """Return the sum of several endpoints."""
    return sum(counts, Count())


def _each(found: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - decoded JSON
    return found if isinstance(found, list) else [found]
