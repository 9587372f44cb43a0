"""The relay's limits for sources with many connections, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from tests.unit.adapters.crowd import CROWD, connected, is_open
from tests.unit.adapters.relay.conftest import running
from tests.unit.adapters.web.serving import until

from dstack_vpn.adapters.relay import tcp2udp
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.limits import Limits
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl
from dstack_vpn.core.wireguard.framing import frame

LIMITS = Limits(total=64, per_source=16)
ONE_64 = [f"127.2.0.{number}" for number in range(1, 6)]
FOUR = [f"127.1.0.{number}" for number in range(1, 5)]


@asynccontextmanager
async def relaying(limits: Limits = LIMITS) -> AsyncIterator[tuple[Tcp2Udp, socket.socket]]:
    """Run a tcp2udp, with a UDP socket in WireGuard's place."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wireguard:
        wireguard.bind(("127.0.0.1", 0))
        wireguard.setblocking(False)
        listen = Listen.parse("tcp://127.0.0.1:0")
        relay = Tcp2Udp(Engine(), listen, wireguard.getsockname(), limits=limits, sources=CROWD)
        async with running(relay):
            yield relay, wireguard


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def carried(wireguard: socket.socket, client: Client, said: bytes) -> None:
    """Send a frame to WireGuard's socket, and an answer to the client."""
    client[1].write(frame(said))
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        while True:
            data, back = await loop.sock_recvfrom(wireguard, 2048)
            if data == said:
                break
        wireguard.sendto(b"re " + said, back)
        assert await client[0].readexactly(len(said) + 5) == frame(b"re " + said)


async def test_addresses_of_one_64_are_one_source() -> None:
    async with relaying() as (relay, wireguard):
        crowd = [await connected(relay.address.port, source) for source in ONE_64 for _ in range(10)]
        other = await connected(relay.address.port, "127.1.9.9")
        await carried(wireguard, other, b"let me in")
        assert len(relay._places) == LIMITS.per_source + 1
        for _, writer in (*crowd, other):
            writer.close()


async def test_sources_that_hold_all_connections_leave_others_a_share_and_this_machine_its_own() -> None:
    async with relaying() as (relay, wireguard):
        crowd = [await connected(relay.address.port, source) for source in FOUR for _ in range(16)]
        for number in range(8):
            other = await connected(relay.address.port, f"127.1.9.{number}")
            await carried(wireguard, other, b"%d" % number)
            crowd.append(other)
        for number in range(4):
            own = await connected(relay.address.port, "127.0.0.1")
            await carried(wireguard, own, b"own %d" % number)
            crowd.append(own)
        assert len(relay._places) <= LIMITS.total
        for _, writer in crowd:
            writer.close()


async def test_connections_that_wireguard_answers_stay_and_those_that_it_never_did_give_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp2udp, "TICK", 0.02)
    async with relaying(Limits(total=8, per_source=4)) as (relay, wireguard):
        held = [await connected(relay.address.port, "127.1.0.1") for _ in range(3)]
        for number, client in enumerate(held):
            await carried(wireguard, client, b"%d" % number)
        places = relay._places._held[CROWD.of("127.1.0.1")]
        await until(lambda: not any(places.values()))
        # Many sources open one connection each, and WireGuard does not answer them.
        crowd = [await connected(relay.address.port, f"127.1.1.{number}") for number in range(5)]
        for _, writer in crowd:
            writer.write(frame(b"nonsense"))
        late = await connected(relay.address.port, "127.1.9.9")
        await carried(wireguard, late, b"late")
        assert len(relay._places) == 8
        # Only the newest of the first source's three connections is displaced.
        assert [await is_open(reader) for reader, _ in held] == [True, True, False]
        for _, writer in (*held, *crowd, late):
            writer.close()


async def test_udp_sources_of_one_64_are_one_source() -> None:
    upstream = [RelayUrl.parse("tcp://127.0.0.1:9")]
    relay = Udp2Tcp(Engine(), SocketAddress("127.0.0.1", 0), upstream, limits=LIMITS, sources=CROWD)
    async with running(relay):
        made = []
        for source in (*(s for s in ONE_64 for _ in range(10)), "127.1.9.9"):
            sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sending.bind((source, 0))
            sending.sendto(b"x", relay.address)
            made.append(sending)
        last = SocketAddress(*made[-1].getsockname())
        await until(lambda: last in {flow.source for flow in relay.flows})
        assert len(relay.flows) == LIMITS.per_source + 1
        for sending in made:
            sending.close()


async def test_a_client_that_comes_through_the_tunnel_is_turned_away() -> None:
    """WireGuard would roam to this relay, and route the tunnel through itself."""
    tunnel = Destinations((ip_network("127.77.0.0/16"),), local=True)
    relay = Tcp2Udp(Engine(), Listen.parse("tcp://127.0.0.1:0"), ("127.0.0.1", 9), destinations=tunnel)
    async with running(relay):
        port = relay.address.port
        inside, outside = await connected(port, "127.77.0.2"), await connected(port, "127.0.0.1")
        assert not await is_open(inside[0])
        assert await is_open(outside[0])
        assert relay.counters.refused == 1
        for _, writer in (inside, outside):
            writer.close()
