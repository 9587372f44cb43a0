"""ICMP echoes to this machine, by a ping socket or a raw socket."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.echo import IcmpEcho, checksum

Reply = tuple[int, str, float]


class Replies(list[Reply]):
    def __call__(self, number: int, address: str, at: float) -> None:
        self.append((number, address, at))


async def until(replies: Replies, count: int) -> None:
    async with asyncio.timeout(5):
        while len(replies) < count:  # noqa: ASYNC110 - the callback has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def opened() -> AsyncIterator[tuple[IcmpEcho, Replies]]:
    replies, found = Replies(), IcmpEcho()
    if (problem := found.start(replies)) is not None:
        pytest.skip(f"NO ICMP SOCKET ({problem}): run the tests as root, or set net.ipv4.ping_group_range")
    yield found, replies
    found.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_reply_has_its_nonce_and_the_time_of_the_kernel(
    opened: tuple[IcmpEcho, Replies], address: str
) -> None:
    sender, replies = opened
    if address == "::1" and not has_ipv6():
        pytest.skip("NO IPV6 ON THIS MACHINE")
    sent = sender.send(address, 2**64 - 1)
    await until(replies, 1)
    read = SystemClock().now()
    number, source, at = replies[0]
    assert (number, source) == (2**64 - 1, address)
    assert sent - 0.001 <= at <= read


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_a_busy_event_loop_does_not_lengthen_a_round_trip(opened: tuple[IcmpEcho, Replies]) -> None:
    sender, replies = opened
    clock = SystemClock()
    sent = sender.send("127.0.0.1", 1)
    while clock.now() < sent + 0.2:
        pass
    await until(replies, 1)
    assert replies[0][2] - sent < 0.1


async def test_two_senders_each_get_their_replies(opened: tuple[IcmpEcho, Replies]) -> None:
    """A raw socket also gets the replies for others, whose nonces the caller does not know."""
    sender, replies = opened
    other, foreign = IcmpEcho(), Replies()
    other.start(foreign)
    other.send("127.0.0.1", 2)
    sender.send("127.0.0.1", 1)
    async with asyncio.timeout(5):
        while 1 not in nonces(replies) or 2 not in nonces(foreign):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    other.close()


def nonces(replies: Replies) -> set[int]:
    return {nonce for nonce, *_ in replies}


async def test_a_malformed_address_and_a_closed_socket_raise_nothing(
    opened: tuple[IcmpEcho, Replies],
) -> None:
    sender, replies = opened
    sender.send("255.255.255.255", 1)
    sender.close()
    sender.send("127.0.0.1", 2)
    await asyncio.sleep(0.05)
    assert replies == []
    assert sender.start(replies) is None
    assert sender.start(replies) is None, "it may be started again"
    sender.send("127.0.0.1", 3)
    await until(replies, 1)


async def test_without_a_privilege_the_reason_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refused)
    found = IcmpEcho()
    problem = found.start(Replies())
    assert problem is not None
    assert "Operation not permitted" in problem
    found.send("127.0.0.1", 1)
    found.close()


def test_the_checksum_of_a_packet_with_its_checksum_is_zero() -> None:
    packet = struct.pack("!BBHHH", 8, 0, 0, 513, 1027) + b"abcdefgh"
    with_sum = packet[:2] + checksum(packet).to_bytes(2, "big") + packet[4:]
    assert checksum(with_sum) == 0
