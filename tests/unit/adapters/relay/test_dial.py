"""Connecting: names with several addresses, proxies, and what goes wrong on the way."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dstack_vpn.adapters.relay.dial import dial
from dstack_vpn.adapters.relay.sockets import KEEPALIVE, can_send
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.upstream import Upstream
from dstack_vpn.errors import RelayError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = b"\x00\x05hello"


@asynccontextmanager
async def server(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    listening = await asyncio.start_server(serve, host, 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HELLO)
    await writer.drain()
    writer.close()


async def reads_hello(url: str) -> None:
    dialled = await dial(Upstream.parse(url))
    try:
        received = await asyncio.get_running_loop().sock_recv(dialled.connection, 100)
    finally:
        dialled.stream.close()
    assert received == HELLO


async def problem(url: str) -> str:
    with pytest.raises(RelayError) as caught:
        await dial(Upstream.parse(url), timeout=2.0)
    return str(caught.value)


async def test_a_name_with_several_addresses_leads_to_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def both(host: str, port: int, **_: object) -> list[object]:
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    async with server(hello) as port:
        await reads_hello(f"tcp://relay.test:{port}")


async def test_connections_have_their_options_before_they_connect() -> None:
    async with server(hello) as port:
        dialled = await dial(Upstream.parse(f"tcp://127.0.0.1:{port}"), mark=77)
        connection = dialled.connection
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 77
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE[0]
        dialled.stream.close()


async def test_a_refused_connection_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = await problem(f"tcp://127.0.0.1:{port}")
    assert said.startswith(f"tcp://127.0.0.1:{port}: ")


async def test_a_name_that_does_not_resolve_says_which() -> None:
    assert "can't resolve nobody.invalid" in await problem("tcp://nobody.invalid:443")


async def test_somebody_elses_name_must_not_lead_to_this_machine() -> None:
    async with server(hello) as port:
        with pytest.raises(RelayError, match="no address of another machine"):
            await dial(Upstream.parse(f"tcp://localhost:{port}"), foreign=True)


# -- proxies ------------------------------------------------------------------------------------------


async def pipe(host: str, port: int, writer: asyncio.StreamWriter) -> None:
    """All that a server says, to whoever asked the proxy for it."""
    reader, theirs = await asyncio.open_connection(host, port)
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    for each in (theirs, writer):
        each.close()
        await each.wait_closed()


def http_proxy(seen: list[str], status: str = "200 OK") -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        if status.startswith("200"):
            host, _, port = head.split()[1].rpartition(":")
            await pipe(host, int(port), writer)
        writer.close()

    return serve


async def socks_proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """SOCKS5 without authentication (RFC 1928)."""
    _, count = await reader.readexactly(2)
    await reader.readexactly(count)
    writer.write(b"\x05\x00")
    _, _, _, kind = await reader.readexactly(4)
    assert kind == 1
    host = socket.inet_ntoa(await reader.readexactly(4))
    port = int.from_bytes(await reader.readexactly(2), "big")
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    await pipe(host, port, writer)


async def test_an_http_proxy_is_asked_to_connect_and_gets_its_password() -> None:
    seen: list[str] = []
    async with server(hello) as port, server(http_proxy(seen)) as proxy:
        await reads_hello(f"tcp://127.0.0.1:{port}?via=http://user:secret@127.0.0.1:{proxy}")
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n")
    assert base64.b64encode(b"user:secret").decode() in seen[0]


async def test_a_socks5_proxy_leads_on() -> None:
    async with server(hello) as port, server(socks_proxy) as proxy:
        await reads_hello(f"tcp://127.0.0.1:{port}?via=socks5://127.0.0.1:{proxy}")


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with server(http_proxy([], "403 Forbidden")) as proxy:
        said = await problem(f"tcp://192.0.2.1:443?via=http://user:secret@127.0.0.1:{proxy}")
    assert f"via: the proxy http://127.0.0.1:{proxy} refused" in said
    assert "403" in said
    assert "secret" not in said


async def test_a_proxy_whose_reply_is_no_text_or_whose_password_can_not_be_told_is_named() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(b"\x05\x00" + b"\x05\x00\x00\x03\x01\xff\x00\x00")
        await reader.read()
        writer.close()

    async with server(serve) as proxy:
        said = await problem(f"tcp://192.0.2.1:443?via=socks5://127.0.0.1:{proxy}")
        assert f"via: the proxy socks5://127.0.0.1:{proxy} can't be spoken to" in said
    async with server(http_proxy([])) as proxy:
        said = await problem(f"tcp://192.0.2.1:443?via=http://us%253Aer:secret@127.0.0.1:{proxy}")
        assert f"via: the proxy http://127.0.0.1:{proxy} can't be spoken to" in said
        assert "secret" not in said


async def test_a_proxy_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = await problem(f"tcp://192.0.2.1:443?via=socks5://user:secret@127.0.0.1:{port}")
    assert f"via: socks5://127.0.0.1:{port}: " in said
    assert "secret" not in said


# -- UDP ----------------------------------------------------------------------------------------------


def test_whether_udp_can_be_sent_is_what_the_system_says() -> None:
    assert can_send(SocketAddress("127.0.0.1", 9))
    assert not can_send(SocketAddress("255.255.255.255", 9))
