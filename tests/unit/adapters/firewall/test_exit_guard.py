"""The text of the kill switch. tests/netns/test_exit_guard.py covers the effect of its rules."""

from dataclasses import replace

from dstack_vpn.adapters.firewall.exit_guard import guard_name, is_guard, make_guard
from dstack_vpn.adapters.firewall.rendering import table_name
from dstack_vpn.ports import ExitGuard

GUARD = ExitGuard("wg0", frozenset({"10.77.0.0/16"}), 0x2E18)


def test_the_whole_table() -> None:
    assert (
        make_guard(GUARD).text()
        == """\
add table inet dstack_exit_wg0
delete table inet dstack_exit_wg0
table inet dstack_exit_wg0 {
  chain exit_prerouting { type filter hook prerouting priority mangle - 5; policy accept;
    iifname != { "lo", "wg0" } fib daddr type local meta mark set 0x2e18
    iifname != { "lo", "wg0" } ct direction reply ct original ip daddr != 10.77.0.0/16 meta mark set 0x2e18
  }
  chain exit_reply { type route hook output priority mangle - 5; policy accept;
    ct direction reply ct original ip daddr != 10.77.0.0/16 meta mark set 0x2e18
  }
  chain exit_output { type filter hook output priority filter - 6; policy accept;
    oifname "wg0" accept
    oifname "lo" accept
    meta mark 0x2e18 accept
    icmpv6 type nd-router-solicit accept
    icmpv6 type nd-neighbor-solicit accept
    icmpv6 type nd-neighbor-advert accept
    icmpv6 type mld-listener-report accept
    icmpv6 type mld2-listener-report accept
    udp sport 68 udp dport 67 accept
    udp sport 546 udp dport 547 accept
    counter reject with icmpx admin-prohibited
  }
  chain exit_forward { type filter hook forward priority filter - 6; policy accept;
    oifname "wg0" accept
    iifname "wg0" accept
    meta mark 0x2e18 accept
    counter reject with icmpx admin-prohibited
  }
}
"""
    )


def test_local_networks_are_private_ones() -> None:
    text = make_guard(replace(GUARD, allow_lan=True)).text()
    assert text.count("ip daddr 192.168.0.0/16 accept") == 2
    assert text.count("ip6 daddr fe80::/10 accept") == 2
    assert "0.0.0.0/0" not in text


def test_a_missing_version_is_rejected_after_the_networks_within() -> None:
    text = make_guard(
        replace(GUARD, versions=frozenset({4}), within=frozenset({"fd77::/48", "10.77.0.0/16"}))
    ).text()
    within = 'oifname "wg0" ip6 daddr fd77::/48 accept'
    rejected = 'oifname "wg0" meta nfproto ipv6 counter reject'
    assert text.count(within) == text.count(rejected) == 2
    assert text.index(within) < text.index(rejected) < text.index('    oifname "wg0" accept')
    assert "nfproto ipv4" not in text


def test_the_table_is_known_by_its_chains_and_named_by_the_interface() -> None:
    listed = "table inet dstack_exit_wg0 {\n\tchain exit_output {\n\t}\n\tchain exit_reply {\n\t}\n}\n"
    assert is_guard(listed)
    assert not is_guard(listed.replace("exit_reply", "mine"))
    assert not is_guard(listed.replace("\tchain exit_reply {", "\tset exit_reply {"))
    names = ["a_b", "a-b", "a__b", "wg0", "exit_wg0", "vpn_wg0"]
    assert len({*map(guard_name, names), *map(table_name, names)}) == 2 * len(names)
