"""The effect of a policy on packets, between a node and a member in namespaces."""

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import pytest
from tests import netns_support
from tests.netns_support import Namespace, connect
from tests.policy_rules import policy_rules

from dstack_vpn.adapters.firewall.libnftables import Libnftables
from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.transactions import transactions
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.ports import DeniedPackets, FirewallRules, PacketCount, PortForward

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
]
BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
FIRST, SECOND = GrantId("1a2b3c4d", 1), GrantId("file", 2)
SSH = PortRight(Protocol.TCP, 22, 30, FIRST)
DNS = PortRight(Protocol.UDP, 53, 53, SECOND)
PING = PortRight(Protocol.ICMP, 0, 65535, SECOND)
ALL = PortRight(None, 0, 65535, SECOND)
WAIT = 0.3
"""Seconds after which a packet is considered lost."""


@dataclass(frozen=True)
class Way:
    """The addresses of the node and the member in one IP version."""

    family: socket.AddressFamily
    node: str
    member: str


V4 = Way(socket.AF_INET, "10.77.0.1", "10.77.0.2")
V6 = Way(socket.AF_INET6, "fd01::1", "fd01::2")
WAYS = pytest.mark.parametrize("way", [V4, V6], ids=["IPv4", "IPv6"])


def rules(inbound: tuple[PortRight, ...], outbound: tuple[PortRight, ...] = ()) -> FirewallRules:
    """Return rules with these rights between the node and the member."""
    policy = policy_rules(
        frozenset({V4.node, V6.node}),
        {V4.member: "m0", V6.member: "m0"},
        {"m0": GroupRights(inbound, outbound)},
    )
    return FirewallRules("h1-w", BOTH, True, policy=policy)


@dataclass(frozen=True)
class Pair:
    """A node and a member."""

    node: Namespace
    member: Namespace

    @contextmanager
    def connected(self, way: Way, port: int, *, by_node: bool = False) -> Iterator[list[socket.socket]]:
        """Yield the node's and the member's end of a TCP connection; none if it can't be opened."""
        client, server = (self.node, self.member) if by_node else (self.member, self.node)
        with server.entered(), closing(socket.socket(way.family)) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((way.member if by_node else way.node, port))
            listening.listen()
            with client.entered(), closing(socket.socket(way.family)) as calling:
                calling.settimeout(WAIT)
                try:
                    calling.connect(listening.getsockname()[:2])
                except TimeoutError:
                    yield []
                    return
                accepted, _ = listening.accept()
                with closing(accepted):
                    accepted.settimeout(WAIT)
                    yield [calling, accepted] if by_node else [accepted, calling]

    def sends(self, way: Way, port: int, data: bytes = b"x") -> bool:
        """Return whether a datagram from the member arrives at a port of the node."""
        with self.member.entered():
            calling = socket.socket(way.family, socket.SOCK_DGRAM)
        with closing(calling), closing(socket.socket(way.family, socket.SOCK_DGRAM)) as listening:
            listening.bind((way.node, port))
            listening.settimeout(WAIT)
            calling.sendto(data, (way.node, port))
            return received(listening) == data

    def pings(self, way: Way, *, by_node: bool = False) -> bool:
        """Return whether the member's echo request is answered, or the node's."""
        place, address = (self.node, way.member) if by_node else (self.member, way.node)
        return ", 0% packet loss" in place.run("ping", "-c1", f"-W{WAIT}", "-n", address, check=False)


def received(end: socket.socket) -> bytes:
    """Return the data that arrives; empty if none does."""
    try:
        return end.recv(65_536)
    except TimeoutError:
        return b""


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Yield a pair. The thread is in the node's namespace.

    The neighbours are fixed: WireGuard needs no neighbour discovery, and a policy drops it.
    """
    with Namespace("f") as node, Namespace("m") as member:
        addresses = tuple(
            (f"{way.node}/{bits}", f"{way.member}/{bits}") for way, bits in ((V4, 24), (V6, 64))
        )
        connect(node, member, *addresses, names=("h1-w", "to-node"))
        for way in (V4, V6):
            for here, there, own, other, peer in (
                (node, member, "h1-w", "to-node", way.member),
                (member, node, "to-node", "h1-w", way.node),
            ):
                link = re.search("link/ether ([0-9a-f:]+)", there.run("ip", "link", "show", other))
                assert link is not None
                neighbour = ("replace", peer, "lladdr", link[1], "dev", own, "nud", "permanent")
                here.run("ip", "neighbour", *neighbour)
        with node.entered():
            yield Pair(node, member)


@WAYS
@pytest.mark.parametrize("protect", [True, False], ids=["protected", "unprotected"])
async def test_ports_without_a_grant_are_closed_and_the_packets_are_recorded(
    pair: Pair, way: Way, *, protect: bool
) -> None:
    firewall = NftFirewall()
    await firewall.apply(replace(rules((SSH, DNS)), protect=protect))
    with pair.connected(way, 22) as ends:
        node, member = ends
        member.send(b"in")
        assert received(node) == b"in"
        node.send(b"out")
        assert received(member) == b"out"
    with pair.connected(way, 31) as ends:
        assert not ends
    assert pair.sends(way, 53)
    assert not pair.sends(way, 54)
    assert not pair.pings(way)
    counts = await firewall.count("h1-w")
    recorded = {(each.protocol, each.port) for each in counts.recent}
    echo = socket.IPPROTO_ICMP if way is V4 else socket.IPPROTO_ICMPV6
    assert {(6, 31), (17, 54), (echo, 0)} <= recorded
    assert DeniedPackets(way.member, way.node, 17, 54, 1) in counts.recent
    assert counts.granted[FIRST].packets >= 3
    assert counts.granted[SECOND].packets == 1
    assert counts.denied.packets >= 3
    await firewall.apply(replace(rules((SSH, PING)), protect=protect))
    assert pair.pings(way)
    assert not pair.sends(way, 53)


@WAYS
async def test_a_right_for_every_protocol_stands_beside_others(pair: Pair, way: Way) -> None:
    firewall = NftFirewall()
    await firewall.apply(rules((ALL, SSH)))
    with pair.connected(way, 22) as ends:
        assert ends
    before = await firewall.count("h1-w")
    assert before.granted[FIRST].packets > 0
    assert before.granted[SECOND] == PacketCount(0, 0)
    assert pair.sends(way, 54) and pair.pings(way)
    with pair.connected(way, 31) as ends:
        assert ends
    after = await firewall.count("h1-w")
    assert after.granted[FIRST] == before.granted[FIRST]
    assert after.granted[SECOND].packets >= 4
    assert after.denied == PacketCount(0, 0)


@WAYS
async def test_replies_need_the_right_of_their_connection(pair: Pair, way: Way) -> None:
    firewall = NftFirewall()
    await firewall.apply(rules((), (SSH, PING)))
    with pair.connected(way, 22, by_node=True) as ends:
        node, member = ends
        member.send(b"in")
        assert received(node) == b"in"
    assert pair.pings(way, by_node=True)
    assert not pair.pings(way)
    with pair.connected(way, 31, by_node=True) as ends:
        assert not ends
    with pair.connected(way, 22) as ends:
        assert not ends, "the right of the other direction is another one"
    await firewall.apply(rules((SSH, PING)))
    with pair.connected(way, 22, by_node=True) as ends:
        assert not ends
    assert not pair.pings(way, by_node=True)


@WAYS
@pytest.mark.parametrize("by_node", [False, True], ids=["of the member", "of the node"])
async def test_a_withdrawn_right_ends_a_running_connection_and_another_stays(
    pair: Pair, way: Way, *, by_node: bool
) -> None:
    firewall = NftFirewall()
    both = (SSH, PortRight(Protocol.TCP, 80, 80, SECOND))
    await firewall.apply(rules(both, both))
    with (
        pair.connected(way, 22, by_node=by_node) as (node, member),
        pair.connected(way, 80, by_node=by_node) as (other_node, other_member),
    ):
        member.send(b"one")
        assert received(node) == b"one"
        await firewall.apply(rules(both[1:], both[1:]))
        member.send(b"two")
        assert received(node) == b""
        other_member.send(b"three")
        assert received(other_node) == b"three"
        await firewall.apply(rules(both, both))
        node.settimeout(5)
        assert received(node) == b"two", "TCP repeats it"


@WAYS
async def test_fragments_are_judged_by_the_port_of_their_datagram(pair: Pair, way: Way) -> None:
    firewall = NftFirewall()
    await firewall.apply(rules((DNS,)))
    assert pair.sends(way, 53, bytes(range(256)) * 32)
    assert not pair.sends(way, 54, bytes(range(256)) * 32)
    counts = await firewall.count("h1-w")
    assert [each.port for each in counts.recent if each.source == way.member] == [54]
    assert counts.granted[SECOND].bytes > 8192


@WAYS
async def test_an_error_about_a_permitted_connection_passes(pair: Pair, way: Way) -> None:
    firewall = NftFirewall()
    await firewall.apply(rules((), (DNS,)))
    with closing(socket.socket(way.family, socket.SOCK_DGRAM)) as calling:
        calling.settimeout(WAIT)
        calling.connect((way.member, 53))
        calling.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            calling.recv(10)


async def test_counters_go_on_over_changes(pair: Pair) -> None:
    firewall = NftFirewall()
    await firewall.apply(rules((DNS,)))
    assert pair.sends(V4, 53)
    before = (await firewall.count("h1-w")).granted
    await firewall.apply(rules((SSH, DNS), (SSH,)))
    assert pair.sends(V4, 53)
    after = (await firewall.count("h1-w")).granted
    assert after == {
        FIRST: PacketCount(0, 0),
        SECOND: PacketCount(2, 2 * before[SECOND].bytes),
    }
    await firewall.apply(rules(()))
    assert (await firewall.count("h1-w")).granted == {}


FLOOD = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
    flood.connect(("{V4.node}", 54))
    while True:
        try:
            flood.send(b"x")
        except OSError:
            pass
"""


async def test_no_change_opens_a_port_that_the_old_and_the_new_rules_lack(pair: Pair) -> None:
    """The flooding member moves between two groups that swap their rights.

    Rules before the map prolong the moment at which a packet in process is judged by both.
    """
    every = (PortRight(None, 0, 65535, FIRST),)
    tables = []
    for own, other in (("m0", "m1"), ("m1", "m0")):
        members = {V4.member: own, "10.77.0.9": other}
        groups = {own: GroupRights((DNS,)), other: GroupRights(every)}
        policy = policy_rules(frozenset({V4.node}), members, groups)
        tables.append(make_table(FirewallRules("h1-w", BOTH, True, policy=policy)))
    nftables, firewall = Libnftables(), NftFirewall()
    await firewall.apply(rules(()))
    nftables.run(tables[0].text())
    at = f"inet {tables[0].name} prerouting_policy"
    nftables.run("".join(f"insert rule {at} ip saddr 192.0.2.{number} drop\n" for number in range(200)))
    flood = pair.member.popen(sys.executable, "-c", FLOOD)
    for number in range(600):
        for commands in transactions(tables[number % 2], tables[1 - number % 2]).all:
            nftables.run(commands)
    flood.kill()
    nftables.close()
    counts = await firewall.count("h1-w")
    assert counts.denied.packets > 300
    assert counts.granted[FIRST] == PacketCount(0, 0)


async def test_a_change_of_other_rights_loses_no_packet(pair: Pair) -> None:
    """The flooding member keeps its right, while its group gains and loses another one."""
    right = PortRight(Protocol.UDP, 54, 54, SECOND)
    tables = [make_table(rules(rights)) for rights in ((right,), (right, SSH))]
    nftables, firewall = Libnftables(), NftFirewall()
    await firewall.apply(rules((right,)))
    flood = pair.member.popen(sys.executable, "-c", FLOOD)
    for number in range(600):
        for commands in transactions(tables[number % 2], tables[1 - number % 2]).all:
            nftables.run(commands)
    flood.kill()
    nftables.close()
    counts = await firewall.count("h1-w")
    assert counts.granted[SECOND].packets > 600
    assert [each for each in counts.recent if each.source == V4.member] == []


async def test_a_forwarded_port_is_judged_by_the_port_that_the_member_uses(pair: Pair) -> None:
    pair.node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    pair.node.run("ip", "link", "add", "behind", "type", "veth", "peer", "beyond")
    pair.node.run("ip", "link", "set", "beyond", "up")
    pair.node.run("ip", "link", "set", "behind", "up")
    pair.node.run("ip", "address", "add", "192.0.2.1/24", "dev", "behind")
    forwards = frozenset({PortForward("udp", port, "192.0.2.7", 53) for port in (53, 54)})
    firewall = NftFirewall()
    await firewall.apply(replace(rules((DNS,)), port_forwards=forwards))
    with pair.member.entered(), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as calling:
        for port in (53, 54):
            calling.sendto(b"x", (V4.node, port))
    counts = await firewall.count("h1-w")
    assert counts.granted[SECOND].packets == 1
    assert counts.recent == (DeniedPackets(V4.member, V4.node, 17, 54, 1),)
    listed = pair.node.run("nft", "list", "chain", "inet", "dstack_vpn_h1_2dw", "prerouting_nat")
    assert re.findall(r"dport (\d+) counter packets (\d+)", listed) == [("53", "1"), ("54", "0")]
