"""Our programs and Mullvad's, in all four pairings: datagrams arrive in order, both ways."""

import hashlib
import socket
import sys
from pathlib import Path

import pytest
from tests.integration.relay.programs import MULLVADS, NO_MULLVAD, OUR_KIND, Kind, mullvad_is_there, pair

SIZES = (148, 0, 92, 1, 1420, 9000, 65507, 1420, 1420, 1419, 0, 16, 32)
"""Bytes: the empty datagram, WireGuard's messages, a run of equal sizes, IPv4's maximum."""
ROUNDS = 5
UDP_SEGMENT = 103
"""From linux/udp.h."""
both_kinds = [pytest.param(kind, id=kind.name) for kind in (MULLVADS, OUR_KIND)]


@pytest.fixture(params=both_kinds)
def near(request: pytest.FixtureRequest) -> Kind:
    return needed(request.param)


@pytest.fixture(params=both_kinds)
def far(request: pytest.FixtureRequest) -> Kind:
    return needed(request.param)


def needed(kind: Kind) -> Kind:
    if kind.mullvad and not mullvad_is_there():
        pytest.skip(NO_MULLVAD)
    return kind


def datagrams(seed: str) -> list[bytes]:
    return [hashlib.shake_128(f"{seed} {number}".encode()).digest(size) for number, size in enumerate(SIZES)]


def received(by: socket.socket, count: int) -> list[bytes]:
    return [by.recv(65536) for _ in range(count)]


def test_what_goes_in_comes_out_in_order_both_ways(
    near: Kind, far: Kind, source: socket.socket, sink: socket.socket, tmp_path: Path
) -> None:
    with pair(near, far, sink.getsockname(), tmp_path) as (entry, _):
        assert entry.address is not None
        source.connect(entry.address)
        source.send(b"first")
        first, back = sink.recvfrom(65536)
        assert first == b"first"
        sink.connect(back)
        for number in range(ROUNDS):
            for sender, receiver in ((source, sink), (sink, source)):
                sent = datagrams(f"{number} {sender is source}")
                for datagram in sent:
                    sender.send(datagram)
                assert received(receiver, len(sent)) == sent


@pytest.mark.parametrize("offload", [False, True], ids=["one by one", "by GSO"])
def test_bursts_of_equal_datagrams_that_a_shorter_one_ends(
    offload: bool, near: Kind, far: Kind, source: socket.socket, sink: socket.socket, tmp_path: Path
) -> None:
    with pair(near, far, sink.getsockname(), tmp_path) as (entry, _):
        assert entry.address is not None
        source.connect(entry.address)
        source.send(b"first")
        sink.connect(sink.recvfrom(65536)[1])
        for number in range(ROUNDS):
            for size in (1420, 100, 1):
                whole = hashlib.shake_128(f"{number} {size}".encode()).digest(40 * size + size // 2)
                burst = [whole[start : start + size] for start in range(0, len(whole), size)]
                for sender, receiver in ((source, sink), (sink, source)):
                    if offload:
                        send_by_gso(sender, whole, size)
                    else:
                        for datagram in burst:
                            sender.send(datagram)
                    assert received(receiver, len(burst)) == burst


def send_by_gso(sender: socket.socket, whole: bytes, size: int) -> None:
    """Send a burst by generic segmentation offload, as WireGuard implementations do."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]
    try:
        sender.sendmsg([whole], control)
    except OSError as error:
        pytest.skip(f"the kernel has no UDP_SEGMENT: {error}")


def test_both_directions_at_once(
    near: Kind, far: Kind, source: socket.socket, sink: socket.socket, tmp_path: Path
) -> None:
    with pair(near, far, sink.getsockname(), tmp_path) as (entry, _):
        assert entry.address is not None
        source.connect(entry.address)
        source.send(b"first")
        sink.connect(sink.recvfrom(65536)[1])
        for number in range(ROUNDS):
            up, down = datagrams(f"up {number}"), datagrams(f"down {number}")
            for one, other in zip(up, down, strict=True):
                source.send(one)
                sink.send(other)
            assert received(sink, len(up)) == up
            assert received(source, len(down)) == down
