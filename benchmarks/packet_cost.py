"""The time that the packet filter takes for a packet.

Packets pass veth pairs, of which one has the name of the tunnel's interface, without WireGuard. A
thread sends bursts of small UDP packets, and the kernel delivers them within these calls. The
fastest of some bursts excludes other work of the machine. The tables take turns, and each is
compared with no table in the same round.
"""

import os
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.netns_support import Namespace, connect
from tests.policy_rules import policy_rules

from benchmarks.harness import median_of
from dstack_vpn.adapters.firewall.rendering import make_table, table_name
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.ports import FirewallRules

ROUNDS: Final = 40
BURSTS: Final = 8
PACKETS: Final = 500
"""In a burst, which takes about a millisecond."""
PORT: Final = 5201
MEMBER, NODE, ROUTER, HOST = "10.77.0.2", "10.77.0.3", "192.168.7.1", "192.168.7.2"
OFFICE: Final = frozenset({"192.168.7.0/24"})
RULES: Final = FirewallRules(
    "wg0", frozenset({"10.77.0.0/16", "fd77::/48"}), True, closed=frozenset({("udp", 51820)})
)
TRACKING: Final = """
table inet tracking {
  chain prerouting { type filter hook prerouting priority mangle; ct state invalid counter; }
}
"""
"""Connection tracking without our rules."""
REMOVAL: Final = "".join(
    f"add table inet {name}\ndelete table inet {name}\n" for name in ("tracking", table_name("wg0"))
)


@dataclass(frozen=True)
class Way:
    """The packets of a connection that pass a namespace with the table."""

    own: str
    """The address of the namespace with the table, in the tunnel."""
    target: str
    """The address to which the member opens the connection."""
    replies: bool
    """The packets are those of the connection's other direction."""
    at: int
    """The namespace with the table: 0 the member's, 1 the node's."""


WAYS: Final = {
    "sent": Way(MEMBER, NODE, False, 0),
    "received": Way(NODE, NODE, False, 1),
    "received_replies": Way(MEMBER, NODE, True, 0),
    "forwarded": Way(NODE, HOST, False, 1),
    "forwarded_replies": Way(NODE, HOST, True, 1),
}


def cost(*names: str) -> dict[str, Any]:
    """Compare the time of a packet with and without tables."""
    return {name: _compared(WAYS[name]) for name in names or WAYS}


def _compared(way: Way) -> dict[str, Any]:
    with ExitStack() as stack:
        spaces = [stack.enter_context(Namespace(label)) for label in ("a", "b", "c")]
        connect(spaces[0], spaces[1], (f"{MEMBER}/16", f"{NODE}/16"), names=("wg0", "wg0"))
        connect(spaces[1], spaces[2], (f"{ROUTER}/24", f"{HOST}/24"))
        spaces[0].run("ip", "route", "add", "192.168.7.0/24", "via", NODE)
        spaces[2].run("ip", "route", "add", "10.77.0.0/16", "via", ROUTER)
        spaces[1].run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        server = spaces[2 if way.target == HOST else 1]
        tables = _tables(way)
        found: dict[str, list[float]] = {name: [] for name in tables}
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(before)})
            for turn in range(ROUNDS):
                for name in list(tables) if turn % 2 == 0 else list(tables)[::-1]:
                    # A process of its own: the kernel completes removals when its socket is closed.
                    spaces[way.at].run("nft", "-f", "-", text=f"{REMOVAL}{tables[name]}")
                    found[name].append(_nanoseconds(spaces[0], server, way))
        finally:
            os.sched_setaffinity(0, before)
    without = found.pop("none")
    added = {
        name: median_of([a - b for a, b in zip(each, without, strict=True)]) for name, each in found.items()
    }
    return {"without_table_ns": median_of(without), "added_ns": added}


def _nanoseconds(member: Namespace, server: Namespace, way: Way) -> float:
    """Return the time of a packet."""
    with _bound(server, way.target) as sink, _bound(member, MEMBER) as source:
        source.connect((way.target, PORT))
        source.send(b"first")
        _, address = sink.recvfrom(100)
        source.setblocking(True)
        sink.setblocking(True)
        sink.connect(address)
        send = (sink if way.replies else source).send
        payload, best = bytes(64), float("inf")
        for _ in range(BURSTS):
            began = time.perf_counter_ns()
            for _ in range(PACKETS):
                send(payload)
            best = min(best, (time.perf_counter_ns() - began) / PACKETS)
        return best


def _bound(space: Namespace, address: str) -> socket.socket:
    with space.entered():
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.settimeout(5.0)
    # Only few packets are queued: the rest of a burst costs the same each.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    bound.bind((address, PORT))
    return bound


def _tables(way: Way) -> dict[str, str]:
    """Return the commands that make each table."""
    networks = OFFICE if way.target == HOST else None
    made = {"none": "", "tracking": TRACKING, "0": make_table(replace(RULES, networks=networks)).text()}
    for number in (100, 1000):
        policy = _policy(way, number)
        made[str(number)] = make_table(replace(RULES, networks=networks, policy=policy)).text()
    return made


def _policy(way: Way, number: int) -> PolicyRules:
    """Return a policy with that many port rules, the port of the packets among them."""
    ports = [(Protocol.TCP, 10_000 + 2 * each) for each in range(number - 2)]
    ports += [(Protocol.UDP, PORT), (Protocol.UDP, PORT + 2)]
    rights = tuple(
        PortRight(protocol, port, port, GrantId("1a2b3c4d", 1 + index // 10))
        for index, (protocol, port) in enumerate(ports)
    )
    groups = {"m0": GroupRights(rights, rights)}
    policy = policy_rules(frozenset({way.own, "fd77::9"}), {MEMBER: "m0", NODE: "m0"}, groups)
    if way.target != HOST:
        return policy
    zone = policy_rules(OFFICE, {MEMBER: "n0m0"}, {"n0m0": GroupRights(rights)})
    return replace(policy, networks={"n0": zone})


ALL: Final = {"policy-packet-cost": cost}
