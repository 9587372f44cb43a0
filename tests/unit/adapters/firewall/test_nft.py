"""The text of the rules, and the errors if nft refuses them.

tests/netns covers the effect of the rules.
"""

from itertools import product
from pathlib import Path

import pytest

from dstack_vpn.adapters.firewall.nft import (
    NftFirewall,
    former_name,
    is_ours,
    lets_through,
    refuses_forwarding,
    render,
    table_name,
)
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PortForward

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
CLOSED = frozenset({("udp", 51820), ("tcp", 443)})
V4 = PortForward("tcp", 80, "192.0.2.7", 8000)
V6 = PortForward("udp", 53, "2001:db8::7", 53)


def test_the_whole_table() -> None:
    text = render(
        FirewallRules("wg0", frozenset({"10.77.0.0/16"}), True, CLOSED, port_forwards=frozenset({V4}))
    )
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
    text = render(FirewallRules("wg0", BOTH, True))
    assert " ct " not in text and "nat" not in text
    assert "ip6 daddr fd01::/48" in text


def test_forwards_alone_protect_nothing() -> None:
    text = render(FirewallRules("wg0", BOTH, False, port_forwards=frozenset({V6})))
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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Operation not permitted (you must be root)", "CAP_NET_ADMIN is needed"),
        ("Error: Could not process rule: Operation not supported", "lacks a part of nftables"),
        ("Error: syntax error", "nft refuses the rules: Error: syntax error"),
        ("", "no message"),
    ],
)
async def test_refusals_are_told(tmp_path: Path, said: str, told: str) -> None:
    program = tmp_path / "nft"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{said}' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(FirewallError, match=told):
        await NftFirewall(str(program)).apply(FirewallRules("wg0", BOTH, True))


async def test_a_missing_program_is_told() -> None:
    firewall = NftFirewall("/nowhere/nft")
    assert not firewall.is_there
    with pytest.raises(FirewallError, match="is not installed: apt install nftables"):
        await firewall.apply(FirewallRules("wg0", BOTH, True))
    await firewall.remove("wg0")


@pytest.mark.parametrize(
    ("port_forward", "name"), [(V4, "ipv4.ip_forward"), (V6, "ipv6.conf.all.forwarding")]
)
async def test_a_machine_that_does_not_forward_is_told(
    tmp_path: Path, port_forward: PortForward, name: str
) -> None:
    for file in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("0\n")
    with pytest.raises(FirewallError, match=name):
        await NftFirewall(proc=tmp_path).apply(
            FirewallRules("wg0", BOTH, True, port_forwards=frozenset({port_forward}))
        )
