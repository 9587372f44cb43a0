"""The responder on real sockets, with dig, dnspython and malformed messages."""

import asyncio
import shutil
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import pytest
from tests.integration.support import eventually
from tests.ports import free_port

from dstack_vpn.adapters.dns.desk import CONNECTIONS
from dstack_vpn.adapters.dns.server import DnsServer
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.names import Answer, DnsRecord, DnsStatus

ZONE = "vpn.internal"
WEB = (DnsRecord("A", "10.77.0.2"), DnsRecord("AAAA", "fd00::2"), DnsRecord("TXT", '"token=1" "owner=0xab"'))


@dataclass
class Told:
    """A directory with the records of a test."""

    members: dict[str, tuple[DnsRecord, ...]] = field(default_factory=lambda: {f"web.{ZONE}": WEB})
    own: frozenset[str] = frozenset({"127.0.0.1"})

    def answer(self, name: str, kind: str) -> Answer:
        if not name.endswith(ZONE):
            return Answer(DnsStatus.FOREIGN)
        records = self.members.get(name.lower())
        if records is None:
            return Answer(DnsStatus.NO_NAME, ZONE)
        chosen = tuple(r for r in records if r.kind == kind)
        return Answer(DnsStatus.FOUND if chosen else DnsStatus.NO_DATA, ZONE, chosen)

    def authority(self, zone: str) -> str:
        return f"{zone}. hostmaster.{zone}. 7 3600 600 86400 1"

    def addresses(self) -> frozenset[str]:
        return self.own

    def is_member_address(self, host: str) -> bool:
        return host.startswith("10.77.")


@asynccontextmanager
async def serving(directory: Told, resolvers: tuple[SocketAddress, ...] = ()) -> AsyncIterator[DnsServer]:
    server = DnsServer(directory, free_port(), (), lambda: resolvers)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        await eventually(lambda: server.listening, "it listens")
        yield server
        task.cancel()


async def dig(server: DnsServer, *arguments: str) -> str:
    command = ("dig", "@127.0.0.1", "-p", str(server.port), "+time=5", "+tries=1", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def udp(server: DnsServer, data: bytes) -> bytes:
    """Return the reply to a datagram. No reply within 5 s raises TimeoutError."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", server.port))
        client.send(data)
        async with asyncio.timeout(5):
            return await loop.sock_recv(client, 65535)


async def tcp(server: DnsServer, *queries: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"".join(len(query).to_bytes(2, "big") + query for query in queries))
    async with asyncio.timeout(5):
        found = [
            await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in queries
        ]
    writer.close()
    return found


needs_dig = pytest.mark.skipif(shutil.which("dig") is None, reason="NO DIG: `make test` installs it")


@needs_dig
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_dig_reads_the_answers(transport: str) -> None:
    async with serving(Told()) as server:
        said = await dig(server, transport, "web.vpn.internal", "A")
        assert "status: NOERROR" in said
        assert "flags: qr aa rd;" in said
        assert "web.vpn.internal.\t1\tIN\tA\t10.77.0.2" in said
        assert "WARNING: recursion requested but not available" in said
        assert (await dig(server, transport, "+short", "web.vpn.internal", "AAAA")).strip() == "fd00::2"
        texts = await dig(server, transport, "+short", "web.vpn.internal", "TXT")
        assert texts.strip() == '"token=1" "owner=0xab"'


@needs_dig
async def test_dig_reads_negative_answers_with_their_authority() -> None:
    async with serving(Told()) as server:
        missing = await dig(server, "nobody.vpn.internal", "A")
        assert "status: NXDOMAIN" in missing
        assert "vpn.internal.\t\t1\tIN\tSOA\tvpn.internal. hostmaster.vpn.internal. 7 " in missing
        empty = await dig(server, "web.vpn.internal", "MX")
        assert "status: NOERROR" in empty
        assert "ANSWER: 0, AUTHORITY: 1" in empty
        foreign = await dig(server, "example.org", "A")
        assert "status: REFUSED" in foreign
        assert "ANSWER: 0, AUTHORITY: 0" in foreign
        assert "status: REFUSED" in await dig(server, "web.vpn.internal", "A", "CH")
        assert server.answers == Counter({"noerror": 1, "nxdomain": 1, "refused": 2})


@needs_dig
async def test_what_is_not_ours_goes_to_the_resolver_that_was_named() -> None:
    other = Told(members={"web.elsewhere." + ZONE: WEB})
    async with serving(other) as upstream:
        asked = SocketAddress("127.0.0.1", upstream.port)
        dead = SocketAddress("127.0.0.1", free_port())
        async with serving(_Elsewhere(), (dead, asked)) as server:
            said = await dig(server, "web.elsewhere.vpn.internal", "A")
            assert "10.77.0.2" in said
            assert "10.77.0.2" in await dig(server, "+tcp", "web.elsewhere.vpn.internal", "A")
            assert "10.77.0.9" in await dig(server, "web.here", "A")
    async with serving(_Elsewhere(), (dead,)) as server:
        assert "status: SERVFAIL" in await dig(server, "web.elsewhere.vpn.internal", "A")


def swollen(query: dns.message.Message) -> bytes:
    """Add 200 records, which are compressed here and too long if dnspython encodes them."""
    wire = query.to_wire()
    px = b"\xc0\x0c" + struct.pack("!HHIHH", 26, 1, 0, 6, 0) + b"\xc0\x0c\xc0\x0c"  # RFC 2163: two names
    return (
        wire[:10]
        + struct.pack("!H", 200)
        + wire[12:]
        + b"".join(px[:12] + struct.pack("!H", n) + px[14:] for n in range(200))
    )


LONG = ".".join(["a" * 63] * 3 + ["b" * 61])


@pytest.mark.parametrize("transport", [udp, tcp])
async def test_a_question_that_swells_when_it_is_written_again_takes_nobody_down(
    transport: Callable[..., Any],
) -> None:
    query = dns.message.make_query(LONG, "A")
    with pytest.raises(dns.exception.TooBig):
        dns.message.from_wire(swollen(query)).to_wire()
    async with serving(Told(members={LONG: WEB})) as upstream:
        asked = SocketAddress("127.0.0.1", upstream.port)
        async with serving(_Elsewhere(), (asked,)) as server:
            answer = await transport(server, swollen(query))
            told = dns.message.from_wire(answer if isinstance(answer, bytes) else answer[0])
            assert (told.id, told.rcode()) == (query.id, dns.rcode.FORMERR)
            assert server.answers == Counter({"formerr": 1})


def test_types_and_classes_that_there_are_not_leave_nothing_behind() -> None:
    server = DnsServer(Told(), 53)
    query = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
    server.respond(query, over_udp=True)
    known = len(dns.rdata._rdata_classes)
    for section in (6, 8, 10):
        for kind in range(300, 400):
            count = query[:section] + b"\0\1" + query[section + 2 :]
            server.respond(count + b"\0" + struct.pack("!HHIH", kind, kind, 0, 0), over_udp=True)
    for size in range(512, 612):
        server.respond(dns.message.make_query(f"web.{ZONE}", "A", payload=size).to_wire(), over_udp=True)
    assert len(dns.rdata._rdata_classes) <= known + 2
    assert server.answers == Counter({"formerr": 300, "noerror": 101})


async def test_an_answer_from_elsewhere_is_passed_on_as_it_came_once_it_is_the_right_one() -> None:
    loop = asyncio.get_running_loop()
    query = dns.message.make_query(LONG, "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.setblocking(False)
        resolver.bind(("127.0.0.1", 0))
        sent: list[bytes] = []

        async def answer() -> None:
            data, asker = await loop.sock_recvfrom(resolver, 4096)
            right = swollen(dns.message.make_response(dns.message.from_wire(data)))
            wrong = [
                b"",
                right[:11],
                data,  # a question
                bytes([right[0] ^ 1]) + right[1:],  # another id
                right[:20] + b"X" + right[21:],  # another name
                right.replace(b"\0\x01\0\x01", b"\0\x1c\0\x01", 1),  # another type
                right[:4] + bytes(2) + right[6:],  # no question
            ]
            for each in (*wrong, right):
                await loop.sock_sendto(resolver, each, asker)
            sent.append(right)

        where = SocketAddress("127.0.0.1", resolver.getsockname()[1])
        async with serving(_Elsewhere(), (where,)) as server, asyncio.TaskGroup() as group:
            group.create_task(answer())
            told = await udp(server, query.to_wire())
    assert told == query.to_wire()[:2] + sent[0][2:]


async def test_a_flood_of_wrong_answers_delays_nobody_and_is_none() -> None:
    query = dns.message.make_query("example.org", "A").to_wire()
    ended = threading.Event()

    def flood(resolver: socket.socket) -> None:
        data, asker = resolver.recvfrom(4096)
        while not ended.is_set():
            with suppress(OSError):  # the client has closed its socket
                resolver.sendto(bytes([data[0] ^ 1]) + data[1:2] + b"\x80" + data[3:], asker)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 0))
        where = SocketAddress("127.0.0.1", resolver.getsockname()[1])
        async with serving(_Elsewhere(), (where,)) as server, asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(flood, resolver))
            try:
                asked = group.create_task(udp(server, query))
                own = dns.message.make_query("web.here", "A")
                assert dns.message.from_wire(await udp(server, own.to_wire())).answer
                assert dns.message.from_wire(await asked).rcode() == dns.rcode.SERVFAIL
            finally:
                ended.set()


async def test_a_resolver_that_refuses_without_the_question_is_believed() -> None:
    loop = asyncio.get_running_loop()
    query = dns.message.make_query("example.org", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.setblocking(False)
        resolver.bind(("127.0.0.1", 0))

        async def answer() -> None:
            data, asker = await loop.sock_recvfrom(resolver, 4096)
            await loop.sock_sendto(resolver, data[:2] + b"\x80\x05" + bytes(8), asker)

        where = SocketAddress("127.0.0.1", resolver.getsockname()[1])
        async with serving(_Elsewhere(), (where,)) as server, asyncio.TaskGroup() as group:
            group.create_task(answer())
            assert await udp(server, query) == query[:2] + b"\x80\x05" + bytes(8)


class _Elsewhere(Told):
    def answer(self, name: str, kind: str) -> Answer:
        if name == "web.here":
            return Answer(DnsStatus.FOUND, "here", (DnsRecord("A", "10.77.0.9"),))
        return Answer(DnsStatus.FOREIGN)


async def test_an_answer_that_is_too_long_for_udp_says_so_and_comes_by_tcp() -> None:
    many = tuple(DnsRecord("A", f"10.77.{n // 256}.{n % 256}") for n in range(100))
    async with serving(Told({f"many.{ZONE}": many})) as server:
        query = dns.message.make_query(f"many.{ZONE}", "A")
        short = dns.message.from_wire(await udp(server, query.to_wire()))
        assert short.flags & dns.flags.TC
        assert not short.answer
        (whole,) = await tcp(server, query.to_wire())
        assert len(dns.message.from_wire(whole).answer[0]) == 100
        wide = dns.message.make_query(f"many.{ZONE}", "A", use_edns=0, payload=65535)
        assert len(await udp(server, wide.to_wire())) <= 1232


async def test_several_questions_come_over_one_connection_in_their_order() -> None:
    async with serving(Told()) as server:
        queries = [dns.message.make_query(f"web.{ZONE}", kind) for kind in ("A", "AAAA", "TXT")]
        answers = await tcp(server, *(query.to_wire() for query in queries))
        assert [dns.message.from_wire(x).id for x in answers] == [query.id for query in queries]


async def test_nonsense_is_answered_once_or_not_at_all_and_the_next_question_as_ever() -> None:
    query = dns.message.make_query(f"web.{ZONE}", "A")
    wire = query.to_wire()
    async with serving(Told()) as server:
        two = wire[:4] + b"\0\2" + wire[6:] + wire[12:]
        for data, code in (
            (wire[:-3], dns.rcode.FORMERR),
            (wire + b"rest", dns.rcode.FORMERR),
            (wire[:12] + b"\xc0\x0c" + wire[-4:], dns.rcode.FORMERR),
            (two, dns.rcode.FORMERR),
            (wire[:2] + b"\x28" + wire[3:], dns.rcode.NOTIMP),
        ):
            answer = await udp(server, data)
            assert answer[:2] == wire[:2]
            assert answer[3] & 0xF == code, data
        for silent in (b"", b"\0", wire[:11], wire[:2] + b"\x80" + wire[3:]):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(silent, ("127.0.0.1", server.port))
        assert dns.message.from_wire(await udp(server, wire)).answer


async def test_an_unknown_edns_version_is_named() -> None:
    async with serving(Told()) as server:
        query = dns.message.make_query(f"web.{ZONE}", "A", use_edns=1)
        assert dns.message.from_wire(await udp(server, query.to_wire())).rcode() == dns.rcode.BADVERS


async def test_strangers_get_no_answer() -> None:
    directory = Told(own=frozenset({"127.0.0.1"}))
    async with serving(directory) as server:
        assert server.allows_on_tunnel("10.77.3.4")
        assert not server.allows_on_tunnel("192.0.2.1")
        assert not server.allows_on_tunnel("172.17.0.2")


async def test_it_follows_the_tunnels_address() -> None:
    directory = Told()
    query = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
    async with serving(directory) as server:
        assert await udp(server, query)
        # This machine does not have the new address yet. The responder continues.
        directory.own = frozenset({"10.77.0.5"})
        new = {SocketAddress("10.77.0.5", server.port)}
        await eventually(lambda: server.listening == new, "it listens at the new address alone")
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            await udp(server, query)


async def test_clients_that_say_nothing_take_no_room_from_others() -> None:
    query = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
    async with serving(Told()) as server:
        silent = [
            await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS.total + 4)
        ]
        assert await udp(server, query)
        for _, writer in silent:
            writer.close()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await tcp(server, query)
                    break
                except (EOFError, OSError):
                    await asyncio.sleep(0.01)
