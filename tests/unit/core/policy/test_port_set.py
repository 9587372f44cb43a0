"""Sets of ports, against plain sets of numbers."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.policy.port_set import PortSet
from dstack_vpn.core.policy.selectors import Ports, Protocol

PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.ICMP, None)
NUMBERS = (0, 1, 2, 9, 10, 11, 20, 21, 22, 65534, 65535)
texts = st.lists(
    st.sampled_from(
        ["*", "tcp:*", "tcp:1", "tcp:2", "tcp:10", "tcp:1-10", "tcp:11-20", "tcp:2-65535", "udp:*", "icmp:*"]
    ),
    max_size=4,
)


def ports(*each: str) -> PortSet:
    return PortSet.of(map(Ports.parse, each))


@given(texts, texts)
def test_sums_and_differences(first: list[str], second: list[str]) -> None:
    one, two = ports(*first), ports(*second)
    for protocol, number in product(PROTOCOLS, NUMBERS):
        in_one, in_two = (
            any(Ports.parse(text).contains(protocol, number) for text in each) for each in (first, second)
        )
        assert one.contains(protocol, number) is in_one
        assert (one - two).contains(protocol, number) is (in_one and not in_two)
        assert (one & two).contains(protocol, number) is (in_one and in_two)
    assert not one - one
    assert bool(one) is bool(first)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (ports(), []),
        (ports("*"), ["*"]),
        (ports("*", "tcp:22"), ["*"]),
        (ports("tcp:22", "tcp:20-21", "udp:53", "tcp:24"), ["tcp:20-22", "tcp:24", "udp:53"]),
        (ports("*") - ports("tcp:22"), ["tcp:0-21", "tcp:23-65535", "udp:*", "icmp:*", "other protocols"]),
        (ports("*") - ports("tcp:*", "udp:*", "icmp:*"), ["other protocols"]),
        (ports("icmp:*") - ports("icmp:*"), []),
    ],
)
def test_the_ports_are_shown_as_a_policy_names_them(found: PortSet, shown: list[str]) -> None:
    assert found.texts() == shown
