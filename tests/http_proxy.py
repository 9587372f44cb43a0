"""A small HTTP proxy on the loopback interface, which forwards requests and supports CONNECT."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

USER, PASSWORD = "pr0xy/us3r", "pr0xy p@ssword"
NEEDS_PASSWORD = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@dataclass
class HttpProxy:
    """A proxy; `http_proxy` runs one."""

    hosts: Mapping[str, tuple[str, int]]
    """The addresses and ports of names that only the proxy can resolve."""
    needs_password: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)
    """The received request lines."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, _, fields = head.partition("\r\n")
            self.asked.append(line)
            coded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.needs_password and f"Basic {coded}\r\n" not in fields:
                writer.write(NEEDS_PASSWORD)
            else:
                await self._pass_on(line, fields, reader, writer)
        writer.close()

    async def _pass_on(
        self, line: str, fields: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, target, _ = line.split(" ")
        found = re.fullmatch(r"(?:http://)?([^:/]+)(?::\d+)?(/.*)?", target)
        if found is None or found[1] not in self.hosts:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        up_reader, up_writer = await asyncio.open_connection(*self.hosts[found[1]])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            # One request per connection, so that the request line of the next one is rewritten too.
            last = "" if "upgrade:" in fields.lower() else "Connection: close\r\n"
            up_writer.write(f"{method} {found[2] or '/'} HTTP/1.1\r\n{last}{fields}".encode("latin-1"))
        await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def http_proxy(
    hosts: Mapping[str, tuple[str, int]], *, needs_password: bool = False
) -> AsyncIterator[HttpProxy]:
    proxy = HttpProxy(hosts, needs_password)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
