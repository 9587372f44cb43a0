"""The text of the rules of a policy. tests/netns covers the effect of the rules."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.policy_rules import members_of, policy_rules

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Table
from dstack_vpn.core.policy.rules import CLOSED as NOTHING
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
FIRST, SECOND = GrantId("1a2b3c4d", 1), GrantId("1a2b3c4d", 2)
SSH = PortRight(Protocol.TCP, 22, 22, FIRST)
WEB = PortRight(Protocol.TCP, 8000, 8080, SECOND)
DNS = PortRight(Protocol.UDP, 53, 53, FIRST)
PING = PortRight(Protocol.ICMP, 0, 65535, SECOND)
ALL = PortRight(None, 0, 65535, SECOND)
POLICY = policy_rules(
    frozenset({"10.77.0.2", "fd01::2"}),
    {"10.77.0.3": "m0", "fd01::3": "m0", "10.77.0.4": "m1"},
    {"m0": GroupRights((ALL, WEB, SSH), (DNS, PING)), "m1": GroupRights((PING,))},
)


def with_policy(policy: PolicyRules | None) -> Table:
    """Return the table of a node that does not protect the tunnel."""
    return make_table(FirewallRules("wg0", BOTH, protect=False, policy=policy))


def test_the_part_for_a_policy() -> None:
    expected = Path(__file__).with_name("policy.nft").read_text()
    assert with_policy(POLICY).text(new=True) == expected


def test_ranges_are_apart_from_single_ports() -> None:
    """A map with a range is a tree in the kernel, and one without is a hash."""
    ports = [WEB, *(WEB._replace(first=port, last=port) for port in (443, 80)), WEB._replace(first=1, last=9)]
    table = with_policy(replace(POLICY, groups={"m0": GroupRights(tuple(ports)), "m1": GroupRights()}))
    maps = {part: body for part, body in table.parts.items() if part.startswith("map ports_")}
    allow = "goto allow_1a2b3c4d_2"
    assert sorted(maps.values()) == [
        f"typeof tcp dport : verdict; elements = {{ 80 : {allow}, 443 : {allow} }}",
        f"typeof tcp dport : verdict; flags interval; elements = {{ 1-9 : {allow}, 8000-8080 : {allow} }}",
    ]
    (rights,) = (
        each for name, each in table.chains.items() if name.startswith("rights_") and len(each.rules) > 1
    )
    assert sorted(rights.rules[1:]) == sorted(f"tcp dport vmap @{part.removeprefix('map ')}" for part in maps)


def test_a_closed_policy_permits_no_packet() -> None:
    table = with_policy(NOTHING)
    assert table.chains["prerouting_policy"].rules == (
        'iifname != "wg0" accept',
        "goto denied",
    )
    assert table.leads == {}


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (replace(POLICY, members=members_of({"10.77.0.3": "m0 }"}, {})), "invalid name: 'm0 }'"),
        (replace(POLICY, groups={"M": GroupRights()}), "invalid name: 'M'"),
        (
            replace(POLICY, members=members_of({"10.77.0.3, 0": "m0"}, POLICY.groups)),
            "invalid address: '10.77.0.3, 0'",
        ),
        (replace(POLICY, addresses=frozenset({"wg0"})), "invalid address: 'wg0'"),
        (
            replace(POLICY, groups={"m0": GroupRights((SSH._replace(grant=GrantId("a b", 1)),))}),
            "invalid name: 'a b'",
        ),
    ],
)
def test_names_that_are_not_safe_in_commands_are_refused(policy: PolicyRules, told: str) -> None:
    with pytest.raises(FirewallError, match=told):
        with_policy(policy).text()


VIEW = policy_rules(frozenset({"10.77.0.7", "fd01::7"}), {"10.77.0.3": "v0m0"}, {"v0m0": GroupRights((SSH,))})


def test_packets_to_a_plain_client_are_judged_by_its_view() -> None:
    table = with_policy(replace(POLICY, views={"v0": VIEW}))
    assert table.chains["prerouting_policy"].rules[1:] == (
        "ip daddr 10.77.0.2 ip saddr vmap @members4",
        "ip6 daddr fd01::2 ip6 saddr vmap @members6",
        "ct direction reply ip daddr 10.77.0.2 ip saddr != 10.77.0.0/16 accept",
        "ct direction reply ip6 daddr fd01::2 ip6 saddr != fd01::/48 accept",
        "ip daddr 10.77.0.2 goto denied",
        "ip6 daddr fd01::2 goto denied",
        "ip daddr vmap @clients4",
        "ip6 daddr vmap @clients6",
        "ip saddr @forwarded4 ip daddr 10.77.0.0/16 accept",
        "ip6 saddr @forwarded6 ip6 daddr fd01::/48 accept",
        "goto denied",
    )
    assert table.chains["view_v0"].rules == (
        "ip saddr vmap @members4_v0",
        "ip6 saddr vmap @members6_v0",
        "goto denied",
    )
    found = table.elements()
    assert found["clients4"] == {"10.77.0.7 : jump view_v0"}
    assert found["clients6"] == {"fd01::7 : jump view_v0"}
    assert found["members4_v0"] == {"10.77.0.3 : jump group_v0m0"}
    assert found["members6_v0"] == frozenset()
    assert found["forwarded4"] == {"10.77.0.7"}
    assert table.parts["map clients6"] == "typeof ip6 daddr : verdict;"
    assert table.parts["map members4_v0"] == "typeof ip saddr : verdict;"


@pytest.mark.parametrize("views", [{"v 0": VIEW}, {"v0": replace(VIEW, groups={"x}": GroupRights()})}])
def test_names_of_views_that_are_not_safe_in_commands_are_refused(views: dict[str, PolicyRules]) -> None:
    with pytest.raises(FirewallError, match="invalid name"):
        with_policy(replace(POLICY, views=views))


def test_addresses_of_clients_that_are_not_safe_in_commands_are_refused() -> None:
    view = replace(VIEW, addresses=frozenset({"10.77.0.7 }"}))
    with pytest.raises(FirewallError, match="invalid address"):
        with_policy(replace(POLICY, views={"v0": view})).text()
