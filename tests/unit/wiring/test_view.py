"""The names that limits count clients by: a member is one client by all of its addresses."""

from ipaddress import IPv4Network, IPv6Network, ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dstack_vpn.adapters.web.limits import Limiter
from dstack_vpn.core.addressing import AddressPlan
from dstack_vpn.wiring.view import NodeView

PLAN = AddressPlan(IPv4Network("10.77.0.0/16"), IPv6Network("fd77:1:2:3::/64"))


def view() -> NodeView:
    node = SimpleNamespace(journal=None, tunnel=SimpleNamespace(members=SimpleNamespace(addresses=PLAN)))
    return NodeView(cast("Any", node))


def addresses(token: int) -> list[str]:
    return [cidr.partition("/")[0] for cidr in PLAN.allowed_ips(token)]


def test_each_member_is_one_client_by_both_of_its_addresses() -> None:
    names = {token: {view().client_name(ip_address(a)) for a in addresses(token)} for token in (1, 2, 300)}
    assert all(len(addresses(token)) == 2 for token in names)
    assert names == {token: {f"token {token}"} for token in names}


@pytest.mark.parametrize(
    ("address", "name"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::/64"), ("10.78.0.2", "10.78.0.2")],
)
def test_others_count_by_address_or_by_their_64(address: str, name: str) -> None:
    assert view().client_name(ip_address(address)) == name


def test_a_member_that_has_used_its_share_leaves_the_others_theirs() -> None:
    limiter = Limiter(lambda: 0.0, rate=1.0, burst=2.0, burst_of_all=1000.0, longest=0.0)

    def ask(address: str) -> bool:
        return limiter.take(view().client_name(ip_address(address))) is not None

    first, second = addresses(1), addresses(2)
    # Its second address gives a member no second share.
    assert [ask(first[number % 2]) for number in range(6)] == [True, True, False, False, False, False]
    # The IPv6 addresses of all members are of one /64.
    assert [ask(second[number % 2]) for number in range(3)] == [True, True, False]
