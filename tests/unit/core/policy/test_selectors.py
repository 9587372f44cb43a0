"""Selectors and ports as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.policy.selectors import Ports, Protocol, Selector, SelectorKind
from dstack_vpn.errors import FormatError

ACCOUNT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", Selector(SelectorKind.ANY)),
        ("tag:web", Selector(SelectorKind.TAG, "web")),
        ("node:web-1", Selector(SelectorKind.NODE, "web-1")),
        ("node:Web_1.a", Selector(SelectorKind.NODE, "Web_1.a")),
        (f"owner:{ACCOUNT}", Selector(SelectorKind.OWNER, ACCOUNT.lower())),
        ("autogroup:self", Selector(SelectorKind.SELF)),
        ("autogroup:internet", Selector(SelectorKind.INTERNET)),
        ("10.0.0.0/8", Selector(SelectorKind.NETWORK, "10.0.0.0/8")),
        ("192.168.7.9", Selector(SelectorKind.NETWORK, "192.168.7.9/32")),
        ("fd00:7::/64", Selector(SelectorKind.NETWORK, "fd00:7::/64")),
    ],
)
def test_a_selector_is_parsed_and_written_again(text: str, expected: Selector) -> None:
    assert Selector.parse(text) == expected
    assert Selector.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "web", "tag:", "tag:Web", "tag:a b", "tag:" + "a" * 64, "node:", "node:-a", "node:\x1b[2J"),
        *("owner:0x12", "owner:" + ACCOUNT[2:], "autogroup:member", "group:eng", "10.0.0.1/8", "10.0.0.0/33"),
        *("host.example", "* ", "TAG:web", "fe80::1%eth0/64"),
    ],
)
def test_other_selectors_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Selector.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", Ports(None)),
        ("tcp:443", Ports(Protocol.TCP, 443, 443)),
        ("udp:8000-8080", Ports(Protocol.UDP, 8000, 8080)),
        ("tcp:*", Ports(Protocol.TCP)),
        ("icmp:*", Ports(Protocol.ICMP)),
    ],
)
def test_ports_are_parsed_and_written_again(text: str, expected: Ports) -> None:
    assert Ports.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "443", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:5-4", "tcp:1-", "tcp:-1", "tcp:1,2", "icmp:8"),
        *("sctp:1", "TCP:1", "tcp:443 ", "tcp:\u0664", "*:1"),
    ],
)
def test_other_ports_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Ports.parse(text)


@given(
    st.sampled_from([*Protocol, None]), st.integers(0, 65535), st.integers(1, 65535), st.integers(1, 65535)
)
def test_a_range_contains_its_ports_of_its_protocol(
    protocol: Protocol | None, port: int, low: int, high: int
) -> None:
    first, last = sorted((low, high))
    assert Ports(None).contains(protocol, port)
    assert Ports(Protocol.TCP, first, last).contains(protocol, port) is (
        protocol is Protocol.TCP and first <= port <= last
    )
