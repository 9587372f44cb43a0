"""The text of the table. tests/netns covers the effect of the rules."""

from itertools import product

from dstack_vpn.adapters.firewall.rendering import former_name, make_table, table_name
from dstack_vpn.ports import FirewallRules, PortForward

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
CLOSED = frozenset({("udp", 51820), ("tcp", 443)})
V4 = PortForward("tcp", 80, "192.0.2.7", 8000)
V6 = PortForward("udp", 53, "2001:db8::7", 53)


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
    ip daddr 10.77.0.0/16 oifname != "wg0" oifname != "lo" counter drop
  }
  chain input { type filter hook input priority filter - 5; policy accept;
    ip saddr 10.77.0.0/16 iifname != "wg0" iifname != "lo" counter drop
    tcp dport 443 iifname "wg0" counter drop
    udp dport 51820 iifname "wg0" counter drop
  }
  chain prerouting_raw { type filter hook prerouting priority raw; policy accept;
    ip daddr != 10.77.0.0/16 iifname "wg0" counter drop
  }
  chain forward { type filter hook forward priority filter - 5; policy accept;
    ip daddr 10.77.0.0/16 oifname != "wg0" counter drop
    iifname != "wg0" accept
    ct status dnat accept
    counter drop
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


def test_containers_that_leave_by_an_exit_get_replies() -> None:
    reply = "ct direction reply ct status snat accept"
    rules = make_table(FirewallRules("wg0", BOTH, True, exits=True)).chains["forward"].rules
    assert rules[-3:] == ('iifname != "wg0" accept', reply, "counter drop")
    assert reply not in make_table(FirewallRules("wg0", BOTH, True)).text()


def test_every_interface_has_a_table_of_its_own() -> None:
    signs = "aA0_=+.-2d"
    names = ["".join(word) for size in (1, 2, 3) for word in product(signs, repeat=size)]
    assert len({table_name(name) for name in names}) == len(names)
    assert all(table_name(name).replace("_", "").isalnum() for name in names)
    assert table_name("wg0") == former_name("wg0") == "dstack_vpn_wg0"
    assert table_name("h1-w") != table_name("h1_w")


CLIENTS = frozenset({"10.77.0.7", "fd01::7"})


def test_the_packets_of_plain_clients_are_forwarded() -> None:
    table = make_table(FirewallRules("wg0", BOTH, True, forwarded=CLIENTS))
    assert table.chains["forward"].rules == (
        'ip daddr 10.77.0.0/16 oifname != "wg0" counter drop',
        'ip6 daddr fd01::/48 oifname != "wg0" counter drop',
        'iifname != "wg0" accept',
        'ip saddr @forwarded4 oifname "wg0" accept',
        'ip daddr @forwarded4 oifname "wg0" accept',
        'ip6 saddr @forwarded6 oifname "wg0" accept',
        'ip6 daddr @forwarded6 oifname "wg0" accept',
        "counter drop",
    )
    assert "set forwarded6 { typeof ip6 saddr; elements = { fd01::7 } }" in table.text()
    assert table.elements() == {"forwarded4": {"10.77.0.7"}, "forwarded6": {"fd01::7"}}


def test_a_node_that_does_not_protect_the_tunnel_needs_no_set_of_clients() -> None:
    assert make_table(FirewallRules("wg0", BOTH, False, forwarded=CLIENTS)).parts == {}
