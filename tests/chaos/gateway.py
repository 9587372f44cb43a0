"""A proxy between the nodes and the dev chain. Each port is an endpoint that fails on request.

It is a separate process. It reads orders from standard input, each a line of JSON, and replies
``ok``:

    {"ports": [9011, 9012], "fault": "stalls", "used": true, "at": 120}

A null ``fault`` ends the present fault. With ``used``, the fault applies only to the first of these
ports with a connection (else to the first port). ``at`` is the last block of an endpoint that goes
back in time.
"""

import argparse
import asyncio
import itertools
import json
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, WSMsgType, web

FAULTS: Final = frozenset(
    {
        "stalls",
        "truncates",
        "floods",
        "rate-limits",
        "answers HTML",
        "answers noise",
        "goes back in time",
        "serves another chain",
        "refuses",
    }
)
_FLOOD: Final = 3000
_HASHES: Final = {"hash", "parentHash", "blockHash"}
_CHAIN_ID: Final = "0x7a69"
_HTML: Final = "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"


class _CutError(Exception):
    """The gateway cuts the connection."""


@dataclass
class Endpoint:
    """An endpoint, on one port."""

    port: int
    upstream: str
    client: ClientSession
    fault: str | None = None
    at: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the endpoint does not stall."""
    transports: set[asyncio.BaseTransport] = field(default_factory=set)

    def take(self, fault: str | None, at: int) -> None:
        """Begin a fault, or end it. Faults that refuse or redirect also cut open connections."""
        assert fault is None or fault in FAULTS, fault
        self.fault, self.at = fault, at
        if fault == "stalls":
            self.over.clear()
        else:
            self.over.set()
        if fault in {"refuses", "rate-limits", "serves another chain"}:
            self.cut()

    def cut(self) -> None:
        for transport in self.transports:
            if isinstance(transport, asyncio.Transport):
                transport.abort()

    # -- connections -------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await self.over.wait()
        if request.transport is None or self.fault == "refuses":
            if request.transport is not None and isinstance(request.transport, asyncio.Transport):
                request.transport.abort()
            return web.Response(status=503)
        if self.fault == "rate-limits":
            return web.Response(status=429, headers={"Retry-After": "1"}, text="slow down")
        if self.fault == "answers HTML":
            return web.Response(text=_HTML, content_type="text/html")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, request.transport)
        try:
            text = await self.to_chain(await request.text())
            async with self.client.post(self.upstream, data=text) as reply:
                text = await reply.text()
            return web.Response(text="".join(await self.to_node(text)), content_type="application/json")
        except (_CutError, ClientConnectionError, TimeoutError):
            return web.Response(status=502, text=_HTML, content_type="text/html")

    async def _websocket(self, request: web.Request, transport: asyncio.BaseTransport) -> web.StreamResponse:
        near = web.WebSocketResponse(max_msg_size=0)
        try:
            async with self.client.ws_connect(self.upstream, max_msg_size=0) as far:
                await near.prepare(request)
                self.transports.add(transport)
                try:
                    async with asyncio.TaskGroup() as group:
                        down = group.create_task(self._down(near, far))
                        async for message in near:
                            if message.type is WSMsgType.TEXT:
                                await far.send_str(await self.to_chain(message.data))
                        down.cancel()
                finally:
                    self.transports.discard(transport)
        except* (_CutError, ClientConnectionError, ConnectionError, TimeoutError):
            if isinstance(transport, asyncio.Transport):
                transport.abort()
        return near

    async def _down(self, near: web.WebSocketResponse, far: Any) -> None:
        async for message in far:
            for text in await self.to_node(message.data):
                await near.send_str(text)
                if self.fault == "truncates":
                    raise _CutError
        raise _CutError

    # -- messages ----------------------------------------------------------------------------------

    async def to_chain(self, text: str) -> str:
        """Return a request as the chain receives it."""
        await self.over.wait()
        if self.fault == "goes back in time":
            return text.replace('"latest"', json.dumps(hex(self.at)))
        return text

    async def to_node(self, text: str) -> Sequence[str]:
        """Return the messages that the node receives instead of one message of the chain."""
        await self.over.wait()
        if self.fault == "truncates":
            return [text[: len(text) // 2]]
        if self.fault == "answers HTML":
            return [_HTML]
        if self.fault == "answers noise":
            return [secrets.token_urlsafe(len(text) // 2)]
        if self.fault == "floods" and '"eth_subscription"' in text:
            return list(itertools.repeat(text, _FLOOD))
        if self.fault == "goes back in time":
            return [] if self._later(text) else [text]
        if self.fault == "serves another chain":
            return [json.dumps(_elsewhere(json.loads(text)))]
        return [text]

    def _later(self, text: str) -> bool:
        """Return whether a message is a notification of a block after ``at``."""
        found = json.loads(text)
        result = found.get("params", {}).get("result", {}) if isinstance(found, dict) else {}
        number = result.get("number") or result.get("blockNumber") or "0x0"
        return int(number, 16) > self.at


def _elsewhere(value: Any) -> Any:
    """Return the same heights and contents of another chain: with other hashes and another id."""
    if isinstance(value, dict):
        return {
            key: f"0xf{item[3:]}" if key in _HASHES and isinstance(item, str) else _elsewhere(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_elsewhere(item) for item in value]
    return "0x1" if value == _CHAIN_ID else value


def obey(endpoints: dict[int, Endpoint], order: dict[str, Any]) -> None:
    """Carry out one order."""
    chosen = [endpoints[port] for port in order["ports"]]
    if order.get("used"):
        chosen = sorted(chosen, key=lambda endpoint: not endpoint.transports)[:1]
    for endpoint in chosen:
        endpoint.take(order["fault"], order.get("at", 0))


async def serve(host: str, upstream: str, ports: Sequence[int]) -> None:
    """Serve the ports until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    runners: list[web.AppRunner] = []
    async with ClientSession(timeout=ClientTimeout(total=30)) as client:
        endpoints = {port: Endpoint(port, upstream, client) for port in ports}
        for endpoint in endpoints.values():
            endpoint.take(None, 0)
            app = web.Application(client_max_size=1 << 26)
            app.router.add_route("*", "/", endpoint.handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, host, endpoint.port).start()
            runners.append(runner)
        print("ok", flush=True)  # noqa: T201 - the reply for which the world waits
        while line := await reader.readline():
            obey(endpoints, json.loads(line))
            print("ok", flush=True)  # noqa: T201 - the reply for which the world waits
        for endpoint in endpoints.values():
            endpoint.take(None, 0)
            endpoint.cut()
        for runner in runners:
            with suppress(TimeoutError):
                await asyncio.wait_for(runner.cleanup(), 2)


def main() -> None:
    """Parse the arguments, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("ports", type=int, nargs="+")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.upstream, arguments.ports))


if __name__ == "__main__":
    main()
