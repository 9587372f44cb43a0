"""The part of the packet filter for networks behind a node, on a real kernel."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests import netns_support
from tests.netns.test_clients_filter import PHONE, VIEW
from tests.netns.test_policy_filter import BOTH, PING, POLICY, SSH, TABLE, check_changes, normal
from tests.netns_support import Namespace
from tests.policy_rules import policy_rules

from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.core.policy.rules import GroupRights
from dstack_vpn.ports import FirewallRules

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
]
OFFICE = frozenset({"192.168.7.0/24", "10.8.0.1/32", "fd07::/64"})
EXIT = frozenset({"0.0.0.0/0", "::/0"})
ZONE = policy_rules(OFFICE, {"10.77.0.2": "n0m0", "fd01::2": "n0m0"}, {"n0m0": GroupRights((SSH,))})
HALF = policy_rules(frozenset({"192.168.7.0/25"}), {"10.77.0.2": "n1m0"}, {"n1m0": GroupRights((PING,))})
REST = policy_rules(frozenset({"192.168.7.128/25"}), {"10.77.0.3": "n2m0"}, {"n2m0": GroupRights((SSH,))})
INTERNET = policy_rules(EXIT, {"10.77.0.2": "n3m0"}, {"n3m0": GroupRights((SSH, PING))})
PLAIN = FirewallRules("h1-w", BOTH, True, networks=OFFICE)
POLICED = replace(PLAIN, policy=replace(POLICY, networks={"n0": ZONE}))
STEPS = {
    "no network, no policy": replace(PLAIN, networks=None),
    "networks, no policy": PLAIN,
    "an exit, no policy": replace(PLAIN, networks=EXIT),
    "both, no policy, no translation": replace(PLAIN, networks=OFFICE | EXIT, keeps_source=True),
    "no network any more": replace(PLAIN, networks=frozenset()),
    "a policy, no network": replace(PLAIN, policy=POLICY, networks=frozenset()),
    "a policy and networks": POLICED,
    "networks and a client": replace(
        POLICED, policy=replace(POLICY, networks={"n0": ZONE}, views={"v0": VIEW}), forwarded=PHONE
    ),
    "other rights to the network": replace(
        POLICED,
        policy=replace(POLICY, networks={"n0": replace(ZONE, groups={"n0m0": GroupRights((PING,))})}),
    ),
    "two zones and an exit": replace(
        POLICED,
        networks=EXIT | {"192.168.7.0/24"},
        policy=replace(POLICY, networks={"n1": HALF, "n2": REST, "n3": INTERNET}),
    ),
    "without protection": replace(POLICED, protect=False),
    "without protection and policy": replace(PLAIN, protect=False),
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("f") as namespace, namespace.entered():
        yield namespace


@pytest.mark.parametrize("first", STEPS)
async def test_the_kernel_takes_each_change_of_networks(namespace: Namespace, first: str) -> None:
    await check_changes(namespace, STEPS, first)


async def test_an_edit_is_undone_and_an_earlier_processs_table_is_taken_over(namespace: Namespace) -> None:
    firewall = NftFirewall()
    await firewall.apply(STEPS["two zones and an exit"])
    before = normal(namespace)
    for edit in (
        f"insert rule inet {TABLE} view_n1 accept",
        f"add element inet {TABLE} reserved4 {{ 1.0.0.0/8 }}",
        f"flush chain inet {TABLE} forward_replies",
        f"delete chain inet {TABLE} postrouting_sources",
    ):
        namespace.run("nft", edit)
        assert not await firewall.is_applied("h1-w")
        await firewall.apply(STEPS["two zones and an exit"])
        assert normal(namespace) == before
    again = NftFirewall()
    await again.apply(POLICED)
    assert await again.is_applied("h1-w")
