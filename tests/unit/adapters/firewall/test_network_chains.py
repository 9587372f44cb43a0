"""The text of the rules for networks behind a node. tests/netns covers their effect."""

from dataclasses import replace

from tests.policy_rules import policy_rules
from tests.unit.adapters.firewall.test_policy_chains import BOTH, PING, POLICY, SSH

from dstack_vpn.adapters.firewall import listing
from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.core.policy.networks import RESERVED
from dstack_vpn.core.policy.rules import GroupRights
from dstack_vpn.ports import FirewallRules

OFFICE = frozenset({"192.168.7.0/24", "10.8.0.1/32"})
EXIT = frozenset({"0.0.0.0/0"})
RULES = FirewallRules("wg0", BOTH, protect=True, networks=OFFICE)
ZONE = policy_rules(OFFICE, {"10.77.0.3": "n0m0"}, {"n0m0": GroupRights((SSH,))})
INTERNET = policy_rules(EXIT, {"10.77.0.3": "n1m0"}, {"n1m0": GroupRights((PING,))})


def name_of(rules: FirewallRules) -> str:
    (name,) = (part.removeprefix("set ") for part in make_table(rules).parts if "networks4" in part)
    return name


def test_packets_to_networks_are_forwarded_and_translated() -> None:
    table, office = make_table(RULES), name_of(RULES)
    assert table.parts == {
        f"set {office}": "typeof ip daddr; flags interval; elements = { 10.8.0.1, 192.168.7.0/24 }"
    }
    assert table.chains["prerouting_raw"].rules == (
        f'ip daddr != 10.77.0.0/16 iifname "wg0" ip daddr != @{office} counter drop',
        'ip daddr != 10.77.0.0/16 iifname "wg0" fib daddr type != unicast counter drop',
        'ip6 daddr != fd01::/48 iifname "wg0" counter drop',
    )
    assert table.chains["forward"].rules[-2:] == (
        f'ip saddr 10.77.0.0/16 ip daddr @{office} oifname != "wg0" accept',
        "counter drop",
    )
    assert table.chains["forward_replies"].rules == (
        'iifname "wg0" accept',
        'oifname != "wg0" accept',
        "ct status dnat accept",
        "ct direction original accept",
        f"ip saddr @{office} accept",
        "ct state related meta l4proto { 1, 58 } accept",
        "counter drop",
    )
    assert table.chains["postrouting_sources"].rules == (
        'oifname != "wg0" accept',
        "ip saddr 10.77.0.0/16 accept",
        "ip6 saddr fd01::/48 accept",
        "ct direction reply accept",
        "counter drop",
    )
    assert table.chains["postrouting_nat"].rules == (
        f'oifname != "wg0" ip saddr 10.77.0.0/16 ip daddr @{office} counter masquerade',
    )
    assert listing.is_ours(table.text().partition("\n")[2].replace("  ", "\t"))


def test_an_exit_forwards_to_all_but_reserved_addresses() -> None:
    rules = replace(RULES, networks=EXIT)
    table = make_table(rules)
    body = f"typeof ip daddr; flags interval; elements = {{ {', '.join(RESERVED[4])} }}"
    assert table.parts == {"set reserved4": body.replace("168.63.129.16/32", "168.63.129.16")}
    internet = "ip daddr != 10.77.0.0/16 ip daddr != @reserved4"
    assert table.chains["prerouting_raw"].rules[0] == (
        'ip daddr != 10.77.0.0/16 iifname "wg0" ip daddr @reserved4 counter drop'
    )
    assert f'ip saddr 10.77.0.0/16 {internet} oifname != "wg0" accept' in (table.chains["forward"].rules)
    assert (
        make_table(replace(rules, keeps_source=True)).chains["postrouting_nat"]
        == (table.chains["postrouting_nat"])
    )


def test_networks_with_a_route_back_see_members_and_the_internet_does_not() -> None:
    rules = replace(RULES, networks=OFFICE | EXIT, keeps_source=True)
    office = name_of(rules)
    members = 'oifname != "wg0" ip saddr 10.77.0.0/16'
    internet = f"ip daddr != 10.77.0.0/16 ip daddr != @{office} ip daddr != @reserved4"
    found = make_table(rules).chains["postrouting_nat"].rules
    assert found == (f"{members} {internet} counter masquerade",)
    assert "postrouting_nat" not in make_table(replace(RULES, keeps_source=True)).chains


def test_a_node_that_had_networks_once_lets_no_reply_in() -> None:
    assert "forward_replies" not in make_table(replace(RULES, networks=None)).chains
    table = make_table(replace(RULES, networks=frozenset()))
    assert not any("saddr" in rule for rule in table.chains["forward_replies"].rules)
    assert table.chains["forward_replies"].rules[-1] == "counter drop"
    assert not table.parts


def test_a_policy_judges_packets_to_networks_by_zones() -> None:
    rules = replace(
        RULES, networks=OFFICE | EXIT, policy=replace(POLICY, networks={"n0": ZONE, "n1": INTERNET})
    )
    table = make_table(rules)
    (zones,) = (part.removeprefix("map ") for part in table.parts if "zones" in part)
    assert table.parts[f"map {zones}"] == (
        "typeof ip daddr : verdict; flags interval; "
        "elements = { 10.8.0.1 : goto view_n0, 192.168.7.0/24 : goto view_n0 }"
    )
    outside = "ip {0} != 10.77.0.0/16 ip {0} != @reserved4 goto view_n1"
    assert table.chains["prerouting_policy"].rules[-4:] == (
        "ct direction reply goto denied",
        f"ip daddr vmap @{zones}",
        outside.format("daddr"),
        "goto denied",
    )
    without = make_table(replace(rules, protect=False)).chains["prerouting_policy"].rules
    assert without[-5:-3] == ("ct direction reply goto denied", "fib daddr type != unicast goto denied")
    assert table.chains["forward_replies"].rules[-4:] == (
        f"ip saddr vmap @{zones}",
        outside.format("saddr"),
        "ct state related meta l4proto { 1, 58 } accept",
        "counter drop",
    )
    assert table.chains["view_n0"].rules == (
        "ct direction reply ip daddr vmap @members4_n0",
        "ct direction reply ip6 daddr vmap @members6_n0",
        "ct direction reply goto denied",
        "ip saddr vmap @members4_n0",
        "ip6 saddr vmap @members6_n0",
        "goto denied",
    )
    (rights,) = table.chains["group_n0m0"].rules
    replies, inbound = table.chains[rights.removeprefix("goto ")].rules
    assert inbound.startswith("tcp dport 22 goto")
    assert table.chains[replies.rpartition(" ")[2]].rules[0].startswith("tcp sport 22 goto")
