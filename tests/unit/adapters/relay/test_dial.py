"""Connections by names with several addresses and by proxies, and their failures."""

import asyncio
import base64
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from dstack_vpn.adapters.relay import lookup
from dstack_vpn.adapters.relay.dial import dial
from dstack_vpn.adapters.relay.lookup import NameCache
from dstack_vpn.adapters.relay.sockets import KEEPALIVE, can_send
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import RelayError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = b"\x00\x05hello"


@asynccontextmanager
async def server(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    serving: set[asyncio.Task[None] | None] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with suppress(OSError):
            await serve(reader, writer)
            await writer.wait_closed()

    listening = await asyncio.start_server(accept, host, 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
    await asyncio.gather(*filter(None, serving))


async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HELLO)
    await writer.drain()
    writer.close()


async def reads_hello(url: str, names: NameCache | None = None) -> None:
    dialled = await dial(RelayUrl.parse(url), names)
    try:
        received = await asyncio.get_running_loop().sock_recv(dialled.connection, 100)
    finally:
        dialled.stream.close()
    assert received == HELLO


async def problem(url: str) -> str:
    with pytest.raises(RelayError) as caught:
        await dial(RelayUrl.parse(url), timeout=2.0)
    return str(caught.value)


async def test_a_name_with_several_addresses_leads_to_the_one_that_answers() -> None:
    def both(host: str, port: int, kind: socket.SocketKind) -> list[tuple[object, ...]]:
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
        ]

    async with server(hello) as port:
        await reads_hello(f"tcp://relay.test:{port}", NameCache(both))


async def test_connections_have_their_options_before_they_connect() -> None:
    async with server(hello) as port:
        dialled = await dial(RelayUrl.parse(f"tcp://127.0.0.1:{port}"), mark=77)
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
            await dial(RelayUrl.parse(f"tcp://localhost:{port}"), destinations=Destinations())


# -- proxies ---------------------------------------------------------------------------------------


async def pipe(host: str, port: int, writer: asyncio.StreamWriter) -> None:
    """Copy a server's data to the client of a proxy."""
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
    """Serve SOCKS5 without authentication (RFC 1928)."""
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
        assert f"via: the proxy socks5://127.0.0.1:{proxy} can't be used" in said
    async with server(http_proxy([])) as proxy:
        said = await problem(f"tcp://192.0.2.1:443?via=http://us%253Aer:secret@127.0.0.1:{proxy}")
        assert f"via: the proxy http://127.0.0.1:{proxy} can't be used" in said
        assert "secret" not in said


async def test_a_proxy_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = await problem(f"tcp://192.0.2.1:443?via=socks5://user:secret@127.0.0.1:{port}")
    assert f"via: socks5://127.0.0.1:{port}: " in said
    assert "secret" not in said


# -- UDP -------------------------------------------------------------------------------------------


def test_whether_udp_can_be_sent_is_what_the_system_says() -> None:
    assert can_send(SocketAddress("127.0.0.1", 9))
    assert not can_send(SocketAddress("255.255.255.255", 9))


# -- an HTTP proxy's reply -------------------------------------------------------------------------


def replying(*segments: bytes) -> Serve:
    """Return a proxy that sends its reply in segments, 20 ms apart."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for segment in segments:
            writer.write(segment)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    return serve


@pytest.mark.parametrize(
    "segments",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + HELLO,),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", b"C: d\r\n", b"\r\n", HELLO),
        (b"HTTP/1.1 200 OK\r\n\r", b"\n" + HELLO),
        (*(bytes([byte]) for byte in b"HTTP/1.0 200\r\n\r\n"), HELLO),
        (b"HTTP/1.1 201 Created\r\n\r\n", HELLO),
        (b"HTTP/1.1 299 Why not\r\nContent-Length: 5\r\n\r\n" + HELLO,),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + HELLO,),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", HELLO),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 90_000 + b"\r\n\r\n" + HELLO,),
    ],
)
async def test_a_proxys_reply_is_read_to_the_end_of_its_head_and_no_further(
    segments: tuple[bytes, ...],
) -> None:
    async with server(replying(*segments)) as proxy:
        await reads_hello(f"tcp://192.0.2.1:443?via=http://127.0.0.1:{proxy}")


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, "its reply has no end within 128 KiB"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, "its reply has no end within 128 KiB"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "refused: 101"),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://x\r\n\r\n", "refused: 301 Moved"),
        (b"HTTP/1.1 407 Who \x1b[31m are you\r\n\r\n", "refused: 407 Who ?[31m are you"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"SSH-2.0-x\r\n\r\n", "its reply is not HTTP/1.x"),
        (b"", "closed the connection"),
    ],
)
async def test_a_proxy_that_does_not_agree_is_named_with_the_reason(reply: bytes, named: str) -> None:
    async with server(replying(reply)) as proxy:
        said = await problem(f"tcp://192.0.2.1:443?via=http://127.0.0.1:{proxy}")
    assert f"via: the proxy http://127.0.0.1:{proxy}" in said
    assert named in said


# -- slow name servers -----------------------------------------------------------------------------


class SlowNames:
    """A resolver that blocks until the test sets `answers`."""

    def __init__(self, port: int) -> None:
        self.port, self.asked = port, 0
        self.answers = threading.Event()

    def __call__(self, host: str, port: int, kind: socket.SocketKind) -> list[tuple[object, ...]]:
        self.asked += 1
        assert self.answers.wait(10)
        return [(socket.AF_INET, kind, socket.IPPROTO_TCP, "", ("127.0.0.1", self.port))]


async def test_a_slow_name_server_takes_no_time_from_connecting() -> None:
    async with server(hello) as port:
        find = SlowNames(port)
        asyncio.get_running_loop().call_later(0.6, find.answers.set)
        dialled = await dial(RelayUrl.parse(f"tcp://relay.test:{port}"), NameCache(find), timeout=0.5)
        dialled.stream.close()


async def test_the_last_good_address_is_used_while_the_name_servers_are_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "FRESH", 0.1)
    async with server(hello) as port:
        find = SlowNames(port)
        names = NameCache(find)
        find.answers.set()
        await reads_hello(f"tcp://relay.test:{port}", names)
        find.answers.clear()
        for _ in range(3):
            await reads_hello(f"tcp://relay.test:{port}", names)
        assert find.asked == 2, "lookups of one name are shared"
        find.answers.set()


async def test_a_name_without_an_answer_is_given_up_by_its_own_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "DEADLINE", 0.1)
    find = SlowNames(0)
    with pytest.raises(RelayError, match=r"can't resolve relay\.test: no name server answered"):
        await dial(RelayUrl.parse("tcp://relay.test:443"), NameCache(find))
    find.answers.set()
