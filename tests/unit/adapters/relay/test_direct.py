"""UDP probes beside a relay: copied datagrams, accepted answers and held datagrams."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.unit.adapters.relay.conftest import Pair, running, until

from dstack_vpn.adapters.relay import direct
from dstack_vpn.adapters.relay.engine import UDP_BUFFER
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.wireguard.framing import frame

DATA = b"\x04\x00\x00\x00"
"""The first bytes of a WireGuard data message."""


class Probed:
    """A connected pair of relays, and the peer's UDP socket."""

    def __init__(self, pair: Pair, peer: socket.socket) -> None:
        self.pair, self.peer, self.answers = pair, peer, 0
        (self.flow,) = pair.near.flows

    def probe(self) -> None:
        self.flow.probe(SocketAddress(*self.peer.getsockname()), None, self.answered)

    def answered(self) -> None:
        self.answers += 1

    async def copy(self) -> tuple[bytes, SocketAddress]:
        """Return the next datagram that the peer receives by UDP, and its source."""
        async with asyncio.timeout(10):
            data, source = await asyncio.get_running_loop().sock_recvfrom(self.peer, 65535)
        return data, SocketAddress(*source)


@pytest.fixture
async def probed(pair: Pair) -> AsyncIterator[Probed]:
    async with running(pair.near, pair.far), udp() as peer:
        await pair.carries(range(10, 12))
        yield Probed(pair, peer)


@asynccontextmanager
async def udp() -> AsyncIterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        yield made


async def test_a_copy_goes_to_the_peer_and_the_datagram_by_the_relay_all_the_same(probed: Probed) -> None:
    probed.probe()
    probed.pair.source.send(b"both ways")
    assert (await probed.copy())[0] == b"both ways"
    assert await probed.pair.take(probed.pair.sink, 1) == [b"both ways"]


async def test_an_answer_is_handed_on_and_told_once(probed: Probed) -> None:
    probed.probe()
    probed.pair.source.send(b"hello")
    _, source = await probed.copy()
    for number in range(3):
        probed.peer.sendto(DATA + bytes([number]), source)
    assert await probed.pair.take(probed.pair.source, 3) == [DATA + bytes([n]) for n in range(3)]
    assert probed.answers == 1


async def test_what_is_not_wireguards_is_no_answer(probed: Probed) -> None:
    probed.probe()
    probed.pair.source.send(b"hello")
    _, source = await probed.copy()
    for junk in (b"", b"\x00", b"\x05junk", b"HTTP/1.1 200 OK"):
        probed.peer.sendto(junk, source)
    probed.peer.sendto(DATA, source)
    assert await probed.pair.take(probed.pair.source, 1) == [DATA]
    assert probed.answers == 1


async def test_copies_are_few_and_apart(probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "COPIES", 3)
    monkeypatch.setattr(direct, "APART", 0.0)
    probed.probe()
    for number in range(20):
        probed.pair.source.send(b"%d" % number)
        assert await probed.pair.take(probed.pair.sink, 1) == [b"%d" % number]
    copies = [(await probed.copy())[0] for _ in range(3)]
    assert copies == [b"0", b"1", b"2"]
    with pytest.raises(BlockingIOError):
        probed.peer.recv(100)


async def test_what_comes_back_waits_while_it_is_held(probed: Probed) -> None:
    probed.flow.hold(on=True)
    for number in range(5):
        probed.pair.sink.send(b"%d" % number)
    await until(lambda: probed.pair.far.counters.datagrams_up == 7)
    with pytest.raises(BlockingIOError):
        probed.pair.source.recv(100)
    probed.flow.hold(on=False)
    assert await probed.pair.take(probed.pair.source, 5) == [b"%d" % number for number in range(5)]


async def test_a_probe_without_an_answer_gives_up(probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "PATIENCE", 0.01)
    probed.probe()
    await until(lambda: probed.flow._probe is not None and probed.flow._probe._udp is None)
    probed.pair.source.send(b"by the relay alone")
    assert await probed.pair.take(probed.pair.sink, 1) == [b"by the relay alone"]


async def test_a_peer_at_full_speed_loses_nothing_while_its_answers_are_held(probed: Probed) -> None:
    """The burst is 0.25 s at 50 Mbit/s, more than the system's default buffer holds."""
    probed.pair.engine.widen(probed.pair.source)  # as WireGuard does with its socket
    if probed.pair.source.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < UDP_BUFFER:
        pytest.skip("a large buffer takes CAP_NET_ADMIN, which a node has")
    probed.probe()
    probed.pair.source.send(b"hello")
    _, source = await probed.copy()
    probed.flow.hold(on=True)
    burst = [DATA + number.to_bytes(2, "big") + bytes(1400) for number in range(1200)]
    for datagram in burst:
        probed.peer.sendto(datagram, source)
    probed.flow.hold(on=False)
    assert await probed.pair.take(probed.pair.source, len(burst)) == burst


async def test_what_is_copied_is_held_and_not_dropped_while_the_relay_takes_nothing(
    probed: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream accepts none of several reads' datagrams. All of them arrive later."""
    probed.probe()
    uplink = probed.flow._uplink
    stream = uplink._sender.stream
    assert stream is not None
    chunks = [(frame(DATA + bytes(size)), 1) for size in (100, 1200, 1400)]
    with monkeypatch.context() as patch:
        patch.setattr(type(stream), "send", lambda *_: 0)
        patch.setattr(uplink, "_take", lambda: chunks)
        uplink._on_mirrored()
    assert uplink.queued() == sum(len(frames) for frames, _ in chunks)
    received = await probed.pair.take(probed.pair.sink, 3)
    assert received == [frames[2:] for frames, _ in chunks]
    assert sum(probed.pair.near.counters.drops.values()) == 0
