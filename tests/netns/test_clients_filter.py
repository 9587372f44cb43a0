"""The part of the packet filter for plain clients, on a real kernel."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests import netns_support
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
PHONE, TABLET = frozenset({"10.77.0.7", "fd01::7"}), frozenset({"10.77.0.8", "fd01::8"})
VIEW = policy_rules(PHONE, {"10.77.0.2": "v0m0"}, {"v0m0": GroupRights((SSH,), (PING,))})
OTHER = policy_rules(TABLET, {"10.77.0.7": "v1m0", "fd01::7": "v1m0"}, {"v1m0": GroupRights((PING,))})
PLAIN = FirewallRules("h1-w", BOTH, True, forwarded=PHONE)
RULES = replace(PLAIN, policy=replace(POLICY, views={"v0": VIEW}))
STEPS = {
    "no client, no policy": replace(PLAIN, forwarded=frozenset()),
    "a client, no policy": PLAIN,
    "two clients, no policy": replace(PLAIN, forwarded=PHONE | TABLET),
    "a policy, no client": replace(RULES, policy=POLICY, forwarded=frozenset()),
    "a policy and a client": RULES,
    "two views": replace(
        RULES, policy=replace(POLICY, views={"v0": VIEW, "v1": OTHER}), forwarded=PHONE | TABLET
    ),
    "one view for both": replace(
        RULES,
        policy=replace(POLICY, views={"v0": replace(VIEW, addresses=PHONE | TABLET)}),
        forwarded=PHONE | TABLET,
    ),
    "other rights in the view": replace(
        RULES, policy=replace(POLICY, views={"v0": replace(VIEW, groups={"v0m0": GroupRights((PING,))})})
    ),
    "another client, and other rights in the view": replace(
        RULES,
        policy=replace(
            POLICY,
            views={"v0": replace(VIEW, addresses=PHONE | TABLET, groups={"v0m0": GroupRights((PING,))})},
        ),
    ),
    "another view for the client": replace(
        RULES, policy=replace(POLICY, views={"v1": replace(OTHER, addresses=PHONE)})
    ),
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("f") as namespace, namespace.entered():
        yield namespace


@pytest.mark.parametrize("first", STEPS)
async def test_the_kernel_takes_each_change_of_clients(namespace: Namespace, first: str) -> None:
    await check_changes(namespace, STEPS, first)


@pytest.mark.parametrize(
    "edit",
    [
        f"add element inet {TABLE} forwarded4 {{ 10.77.0.9 }}",
        f"delete element inet {TABLE} clients6 {{ fd01::7 }}",
        f"add element inet {TABLE} members4_v0 {{ 10.77.0.9 : jump group_v0m0 }}",
        f"flush map inet {TABLE} clients4",
        f"insert rule inet {TABLE} view_v0 accept",
    ],
)
async def test_an_edit_is_undone(namespace: Namespace, edit: str) -> None:
    firewall = NftFirewall()
    await firewall.apply(RULES)
    before = normal(namespace)
    namespace.run("nft", edit)
    assert not await firewall.is_applied("h1-w")
    await firewall.apply(RULES)
    assert normal(namespace) == before
    # The table of an earlier process is taken over.
    again = NftFirewall()
    await again.apply(replace(RULES, policy=POLICY, forwarded=frozenset()))
    assert await again.is_applied("h1-w")
