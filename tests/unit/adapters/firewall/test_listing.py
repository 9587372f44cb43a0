"""Parsers of the listings of nftables."""

import pytest

from dstack_vpn.adapters.firewall.listing import (
    counters,
    denied_packets,
    elements,
    is_ours,
    lets_through,
    of_table,
    refuses_forwarding,
)
from dstack_vpn.core.policy.rules import GrantId
from dstack_vpn.ports import DeniedPackets, PacketCount

RULESET = """\
table inet wg0 {
\tchain a {
\t}
}
table inet wg01 {
}
"""


def test_one_table_of_all_is_found() -> None:
    assert of_table(RULESET, "wg0") == "table inet wg0 {\n\tchain a {\n\t}\n}\n"
    assert of_table(RULESET, "wg01") == "table inet wg01 {\n}\n"
    assert of_table(RULESET, "wg") is None
    assert of_table("", "wg0") is None


LISTED = """\
table inet dstack_vpn_wg0 {
\tchain output {
\t\ttype filter hook output priority filter - 5; policy accept;
\t\toifname != { "wg0", "lo" } ip daddr 10.77.0.0/16 counter drop
\t}
\tchain prerouting_raw {
\t\ttype filter hook prerouting priority raw; policy accept;
\t}
}
"""


@pytest.mark.parametrize(
    ("old", "new", "ours"),
    [
        ("output", "output", True),
        ("output", "outgoing", False),
        ("prerouting_raw", "input", False),  # only names that other programs may use too
        ("prerouting_raw", "entering", False),
        ("\tchain output", "\tset leaving", False),
        ("\tchain output", "\tchain mine {\n\t}\n\tchain output", False),
        ("\tchain output", "\tset denied4 {\n\t}\n\tcounter grant_file_1 {\n\t}\n\tchain rights_m0", True),
        ("\tchain output", "\tmap members4 {\n\t}\n\tmap ports_0a1b", True),
        ("\tchain output", "\tcounter members4", False),
        ("\tchain output", "\tmap members6_v0 {\n\t}\n\tmap clients4 {\n\t}\n\tchain view_v0", True),
        ("\tchain output", "\tset forwarded4 {\n\t}\n\tset forwarded6", True),
        ("\tchain output", "\tset clients4", False),
        ("prerouting_raw", "rights_m0", False),
        ("prerouting_raw", "prerouting_policy", True),
        ("prerouting_raw", "input {\n\t}\n\tset networks4_2700fdead34f", True),
        ("prerouting_raw", "input {\n\t}\n\tset reserved6", True),
        ("prerouting_raw", "input {\n\t}\n\tset networks4_mine", False),
    ],
)
def test_a_table_is_ours_by_its_chains(old: str, new: str, *, ours: bool) -> None:
    assert is_ours(LISTED.replace(old, new)) is ours


def test_a_table_of_an_earlier_release_is_ours() -> None:
    assert is_ours(LISTED.replace("chain output", "chain leaving").replace("prerouting_raw", "entering"))


CHAINS = """\
table ip filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t}
}
table inet other {
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t}
}
table ip6 filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
"""


def test_tables_that_drop_what_is_forwarded_are_found() -> None:
    assert refuses_forwarding(CHAINS) == [("ip", "filter"), ("ip6", "filter")]
    assert refuses_forwarding("") == []


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ('iifname "wg0" counter accept', True),
        ('iifname "wg*" counter jump VPN', True),
        ("ct status dnat accept", True),
        ('iifname "wg0" counter drop', False),
        ('iifname "docker0" counter accept', False),
        ("counter jump DOCKER-USER", False),
    ],
)
def test_a_rule_for_our_interface_lets_packets_through(rule: str, *, passes: bool) -> None:
    assert lets_through(f"table ip filter {{\n\t\t{rule}\n}}", "wg0") is passes


COUNTERS = """\
table inet dstack_vpn_wg0 {
\tcounter grant_1a2b3c4d_12 {
\t\tpackets 7 bytes 588
\t}
\tcounter grant_file_1 {
\t\tpackets 0 bytes 0
\t}
\tcounter denied {
\t\tpackets 18446744073709551615 bytes 1
\t}
\tcounter of_others {
\t\tpackets 1 bytes 1
\t}
}
"""


def test_counts_are_read() -> None:
    assert counters(COUNTERS) == (
        {GrantId("1a2b3c4d", 12): PacketCount(7, 588), GrantId("file", 1): PacketCount(0, 0)},
        PacketCount(2**64 - 1, 1),
    )
    assert counters("") == ({}, PacketCount(0, 0))


DENIED = """\
table inet dstack_vpn_wg0 {
\tset denied6 {
\t\ttype ipv6_addr . ipv6_addr . inet_proto . inet_service
\t\ttimeout 1m
\t\telements = { fd01::3 . fd01::2 . 6 . 22 counter packets 3 bytes 180 expires 59s996ms,
\t\t\t     10.77.0.3 . 10.77.0.2 . 132 counter packets 1 bytes 60 expires 1m,
\t\t\t     10.77.0.9 . 10.77.0.2 . 1 expires 1m }
\t}
}
"""


def test_denied_packets_are_read() -> None:
    assert denied_packets(DENIED) == [
        DeniedPackets("fd01::3", "fd01::2", 6, 22, 3),
        DeniedPackets("10.77.0.3", "10.77.0.2", 132, 0, 1),
    ]


MAPS = """\
table inet dstack_vpn_wg0 {
\tmap members4 {
\t\ttypeof ip saddr : verdict
\t\telements = { 10.77.0.3 : jump group_m0, 10.77.0.4 : jump group_m1,
\t\t\t     10.77.0.5 comment "odd" : accept }
\t}
\tmap members6 {
\t\ttypeof ip6 saddr : verdict
\t}
\tmap ports_0a1b {
\t\ttypeof tcp dport : verdict
\t\tflags interval
\t\telements = { 22 : goto allow_file_1, 80-90 : goto allow_file_2 }
\t}
\tset forwarded4 {
\t\ttypeof ip saddr
\t\telements = { 10.77.0.7, 10.77.0.8 }
\t}
\tset denied4 {
\t\ttype ipv4_addr
\t\telements = { 10.77.0.9 }
\t}
}
"""


def test_elements_are_read_in_any_order_and_with_all_they_have() -> None:
    assert elements(MAPS) == {
        "members4": {
            "10.77.0.4 : jump group_m1",
            '10.77.0.5 comment "odd" : accept',
            "10.77.0.3 : jump group_m0",
        },
        "members6": set(),
        "ports_0a1b": {"22 : goto allow_file_1", "80-90 : goto allow_file_2"},
        "forwarded4": {"10.77.0.7", "10.77.0.8"},
    }
