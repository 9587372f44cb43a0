"""A socket filter that drops some sources' datagrams, in the kernel of the test machine."""

import socket

import pytest
from tests.integration.support import eventually

from dstack_vpn.adapters.dns import source_filter
from dstack_vpn.adapters.dns.source_filter import SourceFilter, attach, program


def bound(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    if host == "::":
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
    made.bind((host, 0))
    return made


def heard(udp: socket.socket, source: str) -> bool:
    """Return True if a datagram from this source arrives. Loopback delivers it at once."""
    with bound(source) as client:
        client.sendto(b"x", ("::1" if ":" in source else "127.0.0.1", udp.getsockname()[1]))
    try:
        return bool(udp.recv(10))
    except BlockingIOError:
        return False


@pytest.mark.parametrize("hosts", [["127.0.0.2"], ["::1"], ["127.0.0.2", "127.0.0.9"], ["127.0.0.2", "::1"]])
def test_what_these_send_is_dropped_and_nothing_else(hosts: list[str]) -> None:
    with bound("::") as udp:
        attach(udp, program([*hosts, "2001:db8::1", "::2"]))
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.9", "::1"):
            assert heard(udp, source) is (source not in hosts), source


def test_the_longest_filter_is_accepted() -> None:
    with bound("127.0.0.1") as udp:
        longest = [f"2001:db8::{number:x}" for number in range(source_filter.MOST)]
        attach(udp, program([*longest, "127.0.0.2"]))
        assert not heard(udp, "127.0.0.2")
        assert heard(udp, "127.0.0.3")


async def test_a_source_is_heard_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_filter, "PAUSE", 0.05)
    with bound("127.0.0.1") as udp:
        blocked = SourceFilter(udp)
        for _ in range(source_filter.AFTER - 1):
            blocked.refused("127.0.0.2")
        assert heard(udp, "127.0.0.2")
        blocked.refused("127.0.0.2")
        assert not heard(udp, "127.0.0.2")
        assert heard(udp, "127.0.0.3")
        await eventually(lambda: heard(udp, "127.0.0.2"), "it is heard again")


async def test_a_source_that_is_refused_now_and_then_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_filter, "WITHIN", -1.0)
    with bound("127.0.0.1") as udp:
        blocked = SourceFilter(udp)
        for _ in range(2 * source_filter.AFTER):
            blocked.refused("127.0.0.2")
        assert heard(udp, "127.0.0.2")
