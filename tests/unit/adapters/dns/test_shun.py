"""A socket filter that drops some sources' datagrams, in the kernel of the test machine."""

import socket

import pytest
from tests.integration.support import eventually

from dstack_vpn.adapters.dns import shun
from dstack_vpn.adapters.dns.shun import Shunned, attach, program


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
        attach(udp, program([f"2001:db8::{number:x}" for number in range(shun.MOST)] + ["127.0.0.2"]))
        assert not heard(udp, "127.0.0.2")
        assert heard(udp, "127.0.0.3")


async def test_a_source_is_heard_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shun, "PAUSE", 0.05)
    with bound("127.0.0.1") as udp:
        shunned = Shunned(udp)
        for _ in range(shun.AFTER - 1):
            shunned.refused("127.0.0.2")
        assert heard(udp, "127.0.0.2")
        shunned.refused("127.0.0.2")
        assert not heard(udp, "127.0.0.2")
        assert heard(udp, "127.0.0.3")
        await eventually(lambda: heard(udp, "127.0.0.2"), "it is heard again")


async def test_a_source_that_is_refused_now_and_then_is_not_shunned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shun, "WITHIN", -1.0)
    with bound("127.0.0.1") as udp:
        shunned = Shunned(udp)
        for _ in range(2 * shun.AFTER):
            shunned.refused("127.0.0.2")
        assert heard(udp, "127.0.0.2")
