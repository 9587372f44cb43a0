"""The text of the table. tests/netns covers the effect of the rules."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from tests.policy_rules import members_of, policy_rules

from dstack_vpn.adapters.firewall.rendering import former_name, make_table, table_name
from dstack_vpn.adapters.firewall.table import Table
from dstack_vpn.core.policy.rules import CLOSED as NOTHING
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PortForward

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
CLOSED = frozenset({("udp", 51820), ("tcp", 443)})
V4 = PortForward("tcp", 80, "192.0.2.7", 8000)
V6 = PortForward("udp", 53, "2001:db8::7", 53)
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


def test_the_whole_table() -> None:
    rules = FirewallRules("wg0", frozenset({"10.77.0.0/16"}), True, CLOSED, frozenset({V4}))
    text = make_table(rules).text()
    assert (
        text
        == """\
add table inet dstack_vpn_wg0
delete table inet dstack_vpn_wg0
table inet dstack_vpn_wg0 {
  chain output { type filter hook output priority filter - 5; policy accept;
    oifname != { "wg0", "lo" } ip daddr 10.77.0.0/16 counter drop
  }
  chain input { type filter hook input priority filter - 5; policy accept;
    iifname != { "wg0", "lo" } ip saddr 10.77.0.0/16 counter drop
    iifname "wg0" tcp dport 443 counter drop
    iifname "wg0" udp dport 51820 counter drop
  }
  chain prerouting_raw { type filter hook prerouting priority raw; policy accept;
    iifname "wg0" ip daddr != 10.77.0.0/16 counter drop
  }
  chain forward { type filter hook forward priority filter - 5; policy accept;
    oifname != "wg0" ip daddr 10.77.0.0/16 counter drop
    iifname "wg0" ct status dnat accept
    iifname "wg0" counter drop
  }
  chain prerouting_nat { type nat hook prerouting priority dstnat; policy accept;
    iifname "wg0" ip daddr 10.77.0.0/16 tcp dport 80 counter dnat ip to 192.0.2.7:8000
  }
  chain postrouting_nat { type nat hook postrouting priority srcnat; policy accept;
    oifname != "wg0" ip saddr 10.77.0.0/16 ct status dnat counter masquerade
  }
}
"""
    )


def test_without_forwards_no_connection_is_tracked() -> None:
    text = make_table(FirewallRules("wg0", BOTH, True)).text()
    assert " ct " not in text and "nat" not in text
    assert "ip6 daddr fd01::/48" in text


def test_forwards_alone_protect_nothing() -> None:
    text = make_table(FirewallRules("wg0", BOTH, False, port_forwards=frozenset({V6}))).text()
    assert "drop" not in text
    assert "ip6 daddr fd01::/48 udp dport 53 counter dnat ip6 to [2001:db8::7]:53" in text
    assert "ip daddr" not in text, "an IPv4 packet can't go to an IPv6 address"


def test_every_interface_has_a_table_of_its_own() -> None:
    signs = "aA0_=+.-2d"
    names = ["".join(word) for size in (1, 2, 3) for word in product(signs, repeat=size)]
    assert len({table_name(name) for name in names}) == len(names)
    assert all(table_name(name).replace("_", "").isalnum() for name in names)
    assert table_name("wg0") == former_name("wg0") == "dstack_vpn_wg0"
    assert table_name("h1-w") != table_name("h1_w")


def with_policy(policy: PolicyRules | None) -> Table:
    """Return the table of a node that does not protect the tunnel."""
    return make_table(FirewallRules("wg0", BOTH, protect=False, policy=policy))


def test_the_part_for_a_policy() -> None:
    expected = Path(__file__).with_name("policy.nft").read_text()
    assert with_policy(POLICY).text(new=True) == expected


def test_a_closed_policy_permits_no_packet() -> None:
    table = with_policy(NOTHING)
    assert table.chains["prerouting_policy"].rules == (
        'iifname != "wg0" accept',
        "ct state related meta l4proto { 1, 58 } accept",
        "goto denied",
    )
    assert table.members == {}


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
