"""The packet filter on a real kernel: it detects changes, and leaves others' tables alone."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from tests import netns_support
from tests.netns_support import Namespace, connect

from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, Forwarding, PortForward

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
]
BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
RULES = FirewallRules("h1-w", BOTH, True)
TABLE = "dstack_vpn_h1_2dw"
HANDED = frozenset({PortForward("tcp", 80, "192.0.2.7", 80)})
PUBLISHED = """\
table inet docker {
  chain publish { type nat hook prerouting priority dstnat - 1; policy accept;
    meta nfproto ipv4 fib daddr type local udp dport 8080 dnat ip to 172.30.0.2:9
  }
}
"""
DOCKER = """\
table ip filter {
  chain FORWARD { type filter hook forward priority filter; policy drop;
  }
}
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("f") as namespace, namespace.entered():
        yield namespace


@pytest.mark.parametrize(
    "edit",
    [
        ("flush", "table", "inet", TABLE),
        ("flush", "chain", "inet", TABLE, "input"),
        ("delete", "table", "inet", TABLE),
        ("insert", "rule", "inet", TABLE, "output", "accept"),
        ("add", "chain", "inet", TABLE, "more"),
        ("flush", "ruleset"),
    ],
    ids=" ".join,
)
async def test_any_edit_of_our_table_is_seen(namespace: Namespace, edit: tuple[str, ...]) -> None:
    firewall = NftFirewall()
    await firewall.apply(RULES)
    made = namespace.run("nft", "list", "ruleset")
    assert await firewall.is_applied("h1-w")
    namespace.run("nft", *edit)
    assert not await firewall.is_applied("h1-w")
    await firewall.apply(RULES)
    assert await firewall.is_applied("h1-w")
    assert namespace.run("nft", "list", "ruleset") == made
    await firewall.remove("h1-w")
    assert namespace.run("nft", "list", "ruleset") == ""


async def test_names_that_differ_in_a_sign_have_tables_of_their_own(namespace: Namespace) -> None:
    firewalls = {name: NftFirewall() for name in ("h1-w", "h1_w")}
    for name, firewall in firewalls.items():
        await firewall.apply(FirewallRules(name, BOTH, True))
    for name, firewall in firewalls.items():
        assert await firewall.is_applied(name)
    await firewalls["h1-w"].remove("h1-w")
    assert await firewalls["h1_w"].is_applied("h1_w")


async def test_a_table_of_others_with_our_name_is_left_alone(namespace: Namespace) -> None:
    namespace.run("nft", "-f", "-", text=f"table inet {TABLE} {{\n chain mine {{\n }}\n}}\n")
    before = namespace.run("nft", "list", "ruleset")
    firewall = NftFirewall()
    with pytest.raises(FirewallError, match="was not made by dstack-vpn"):
        await firewall.apply(RULES)
    assert not await firewall.is_applied("h1-w")
    await firewall.remove("h1-w")
    assert namespace.run("nft", "list", "ruleset") == before


async def test_the_table_of_an_earlier_release_is_taken_over_if_it_is_ours(namespace: Namespace) -> None:
    await NftFirewall().apply(RULES)
    listed = namespace.run("nft", "list", "ruleset")
    await NftFirewall().apply(RULES)
    assert namespace.run("nft", "list", "ruleset") == listed, "of a run that was killed"
    for whose, stays in (("h1-w", False), ("h1_w", True)):
        namespace.run("nft", "flush", "ruleset")
        text = listed.replace(TABLE, "dstack_vpn_h1_w").replace('"h1-w"', f'"{whose}"')
        namespace.run("nft", "-f", "-", text=text)
        await NftFirewall().apply(RULES)
        assert ("table inet dstack_vpn_h1_w {" in namespace.run("nft", "list", "ruleset")) is stays


async def test_a_policy_that_drops_what_is_forwarded_is_named(namespace: Namespace) -> None:
    firewall = NftFirewall()
    namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    await firewall.apply(FirewallRules("wg0", BOTH, True, port_forwards=HANDED))
    assert await firewall.conflict("wg0", {4, 6}, Forwarding.PORTS) is None
    namespace.run("nft", "-f", "-", text=DOCKER)
    found = await firewall.conflict("wg0", {4}, Forwarding.PORTS)
    assert found is not None
    assert found.startswith("FORWARD_TO: the table 'ip filter' drops forwarded packets")
    assert "iptables -I FORWARD -i wg0" in found
    behind = await firewall.conflict("wg0", {4}, Forwarding.NETWORKS)
    assert behind is not None
    assert behind.startswith("the table 'ip filter' drops forwarded packets")
    assert "iptables -I FORWARD -i wg0 -j ACCEPT, and iptables -I FORWARD -o wg0" in behind
    assert await firewall.conflict("wg0", {6}, Forwarding.PORTS) is None
    namespace.run("nft", "add", "rule", "ip", "filter", "FORWARD", "iifname", "wg0", "accept")
    assert await firewall.conflict("wg0", {4}, Forwarding.PORTS) is None


# -- the members' access ---------------------------------------------------------------------------

TUNNEL, OTHERS = ("10.77.0.1", "fd01::1"), ("192.168.77.1", "10.9.0.1", "2001:db8:77::1")


@dataclass(frozen=True)
class Pair:
    """A node and a member, connected by an interface that the rules treat as the tunnel."""

    node: Namespace
    member: Namespace


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Yield a pair whose node has other addresses, too. The thread is in the node's namespace."""
    with Namespace("f") as namespace, Namespace("m") as member:
        pairs = (("10.77.0.1/24", "10.77.0.2/24"), ("fd01::1/64", "fd01::2/64"), ("10.9.0.1/24", ""))
        connect(namespace, member, *pairs, names=("h1-w", "to-node"))
        namespace.run("ip", "link", "add", "bridge0", "type", "veth", "peer", "behind")
        for name in ("bridge0", "behind"):
            namespace.run("ip", "link", "set", name, "up")
        for address in ("192.168.77.1/24", "2001:db8:77::1/64", "172.30.0.1/24"):
            nodad = ("nodad",) if ":" in address else ()
            namespace.run("ip", "address", "add", address, "dev", "bridge0", *nodad)
        for version, route in (("-4", "default via 10.77.0.1"), ("-6", "default via fd01::1")):
            member.run("ip", version, "route", "add", *route.split())
        namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        with namespace.entered():
            yield Pair(namespace, member)


def arrives(pair: Pair, to: str, port: int = 4000) -> bool:
    """Return whether a datagram from the member reaches a wildcard socket of the node."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_DGRAM)
    with pair.member.entered():
        calling = socket.socket(family, socket.SOCK_DGRAM)
    with listening, calling:
        listening.bind(("", port))
        listening.settimeout(0.2)
        calling.sendto(b"x", (to, port))
        try:
            return bool(listening.recv(10))
        except TimeoutError:
            return False


def counted(namespace: Namespace, chain: str, matching: str = "") -> int:
    """Return the packets counted by the rules of a chain, or by its rules with a text."""
    listed = namespace.run("nft", "list", "chain", "inet", TABLE, chain).splitlines()
    rules = [line for line in listed if matching in line]
    return sum(int(count) for line in rules for count in re.findall(r"counter packets (\d+)", line))


async def test_a_member_reaches_our_tunnel_addresses_and_no_other_of_this_machine(pair: Pair) -> None:
    for address in (*TUNNEL, *OTHERS):
        assert arrives(pair, address), f"{address}: without rules it does"
    await NftFirewall().apply(RULES)
    assert all(arrives(pair, address) for address in TUNNEL)
    assert [address for address in OTHERS if arrives(pair, address)] == []
    assert counted(pair.node, "prerouting_raw") >= len(OTHERS)


async def test_a_member_gets_into_no_tunnel_through_the_tunnel_and_no_further_by_it(pair: Pair) -> None:
    await NftFirewall().apply(replace(RULES, closed=frozenset({("udp", 51820)})))
    assert not arrives(pair, TUNNEL[0], 51820)
    assert arrives(pair, TUNNEL[0], 51821)
    pair.node.run("ip", "route", "add", "10.77.9.0/24", "dev", "h1-w")
    pair.member.run("ip", "route", "add", "10.77.9.0/24", "via", "10.77.0.1")
    before = counted(pair.node, "forward")
    assert not arrives(pair, "10.77.9.9")
    assert counted(pair.node, "forward") == before + 1


async def test_a_port_that_another_program_publishes_is_reached_at_our_tunnel_addresses_only(
    pair: Pair,
) -> None:
    pair.node.run("nft", "-f", "-", text=PUBLISHED)
    await NftFirewall().apply(replace(RULES, port_forwards=HANDED))
    # IPv4 only, because the interfaces send IPv6 packets of their own (RFC 3810) at any time.
    before = counted(pair.node, "prerouting_raw", "ip daddr")
    arrives(pair, OTHERS[0], 8080)
    assert counted(pair.node, "prerouting_raw", "ip daddr") == before + 1
    # A port of FORWARD_TO is translated after that rule, and therefore passes.
    pair.node.run("ip", "route", "add", "192.0.2.7", "dev", "bridge0")
    with pair.member.entered(), socket.socket() as calling:
        calling.setblocking(False)
        with pytest.raises(BlockingIOError):
            calling.connect((TUNNEL[0], 80))
        netns_support.wait_until(lambda: counted(pair.node, "postrouting_nat") == 1, "it is forwarded", 3)
    assert counted(pair.node, "prerouting_raw", "ip daddr") == before + 1
