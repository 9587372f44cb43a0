"""A member, two exits, and an internet behind these alone.

    m ──── lan (192.168.77.0/24) ──── gw-1 ──── internet
                                 ╰─── gw-2 ──── (9.9.9.1, 2620:fe:9::1)

The member's own default route leads to the namespace of the chain. What arrives there beside
control traffic has leaked.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from demo.lab import Lab
from demo.node import LabNode, new_key
from tests.netns.capture import Capture, Seen
from tests.netns.clients import forward
from tests.netns_support import Namespace, connect, wait_until

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.wireguard.x25519 import derive

INTERNET: Final = ("9.9.9.1", "2620:fe:9::1")
FAR: Final = ("8.8.4.4", "2620:119:35::35")
"""Addresses of the internet that are in no network of an exit."""
PORT: Final = 7000
SSH: Final = 2222
RPC: Final = 8545
RELAY: Final = 8443
BOTH: Final = ("0.0.0.0/0", "::/0")
V6_LAN: Final = "fd00:77::"
_SERVER: Final = """
import socket, sys, threading
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
while True:
    one, source = server.accept()
    with one:
        one.sendall(source[0].removeprefix("::ffff:").encode())
"""
_NAMES: Final = """
import socket, sys
import dns.message, dns.rrset
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("up", flush=True)
while True:
    data, source = server.recvfrom(4096)
    query = dns.message.from_wire(data)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", "192.0.2.53"))
    server.sendto(reply.to_wire(), source)
"""
_CHATTER: Final = """
import socket, sys, time
families = [socket.AF_INET6 if ":" in to else socket.AF_INET for to in sys.argv[1:]]
sockets = [(socket.socket(family, socket.SOCK_DGRAM), to) for family, to in zip(families, sys.argv[1:])]
for one, _ in sockets:
    one.setblocking(False)
print("up", flush=True)
while True:
    for one, to in sockets:
        for port in (53, 443):
            try:
                one.sendto(b"secret", (to, port))
            except OSError:
                pass
    time.sleep(0.004)
"""


@dataclass
class World:
    """The lab with its internet."""

    lab: Lab
    internet: Namespace
    member: LabNode
    exits: tuple[LabNode, LabNode]
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def control(self) -> set[str]:
        """The addresses to which control traffic goes."""
        return {self.lab.chain.address, *(gateway.underlay for gateway in self.exits)}

    def start(self, **more: str) -> None:
        """Start the member's daemon."""
        self.member.start(**self.settings | more)

    def source(self, address: str, wait: float = 1.0, *, inside: Namespace | None = None) -> str:
        """Return the source address that the internet's server sees; empty without a connection."""
        with (inside or self.member.namespace).entered():
            try:
                with socket.create_connection((address, PORT), timeout=wait) as connection:
                    return connection.recv(64).decode()
            except OSError:
                return ""

    def _leaves_as(self, address: str, wanted: str) -> bool:
        return self.source(address, 0.3) == wanted

    def wait_exit(self, gateway: LabNode | None, timeout: float = 20.0) -> float:
        """Wait until the member leaves by a gateway, by both IP versions; returns the seconds."""
        began = time.monotonic()
        number = 0 if gateway is None else 1 + self.exits.index(gateway)
        for address, prefix in zip(INTERNET, ("9.9.9.1", "2620:fe:9::1"), strict=True):
            wanted = f"{prefix}{number}" if number else ""
            what = f"the member leaves by {gateway and gateway.name}"
            wait_until(partial(self._leaves_as, address, wanted), what, timeout)
        return time.monotonic() - began

    def round_trip(self, gateway: LabNode) -> float | None:
        """Return the round trip to an exit that the member has measured, in milliseconds."""
        peers = self.member.get("/peers").get("peers", ())
        return next((peer["round_trip_ms"] for peer in peers if peer["node_id"] == gateway.name), None)

    def tunnel_addresses(self) -> set[str]:
        """Return the member's addresses in the tunnel, which must not be seen outside."""
        plan = AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(31337, self.lab.chain.contract))
        return set(plan.texts_of(self.member.token))

    @contextlib.contextmanager
    def watched(self) -> Iterator["Leaks"]:
        """Send all the time, and capture what leaves by the member's uplink."""
        chatter = self.member.namespace.popen(
            *(sys.executable, "-c", _CHATTER, *INTERNET, "192.168.77.1", "192.168.77.99", "1.1.1.1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert chatter.stdout is not None
            assert chatter.stdout.readline() == "up\n"
            with Capture(self.lab.chain.namespace, f"to-{self.member.name}") as capture:
                yield Leaks(self, capture)
        finally:
            chatter.kill()
            chatter.wait(10)


@dataclass
class Leaks:
    """The packets that a capture on the member's uplink has seen."""

    world: World
    capture: Capture

    @property
    def sent(self) -> list[Seen]:
        """Return what the member has sent."""
        member = self.world.member
        ours = {member.underlay, f"{V6_LAN}2", *self.world.tunnel_addresses()}
        return [each for each in list(self.capture.seen) if each.source in ours]

    @property
    def leaked(self) -> list[Seen]:
        """Return what is neither control traffic nor a reply to an operator from outside."""
        return [each for each in self.sent if not self._is_control(each)]

    def _is_control(self, packet: Seen) -> bool:
        world = self.world
        if packet.source_port == SSH:
            return True
        if packet.protocol == socket.IPPROTO_ICMP and packet.destination in world.control:
            return True  # "port unreachable", for a packet to a WireGuard that was killed
        if packet.port == RELAY and packet.destination in world.control:
            return packet.protocol == socket.IPPROTO_TCP
        protocol, port = (socket.IPPROTO_UDP, 51820)
        if packet.destination == world.lab.chain.address:
            protocol, port = (socket.IPPROTO_TCP, RPC)
        return packet.destination in world.control and (packet.protocol, packet.port) == (protocol, port)

    def wait_control(self) -> None:
        """Change the registry, and wait until control traffic is captured."""
        before = len(self.capture.seen)
        key = derive(new_key())
        self.world.lab.mint_key(f"x-{key.hex()[:12]}", key)
        wait_until(
            lambda: any(self._is_control(each) for each in self.capture.seen[before:]), "control traffic", 10
        )


def routes_of(lab: Lab, node: LabNode, *routes: str) -> None:
    """Set a node's routes."""
    lab.chain.send(calls.set_routes(node.token, routes))


def build(lab: Lab) -> World:
    """Make everything, and start the exits."""
    internet = lab._new_namespace("net")
    internet.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
    for name in ("m", "gw-1", "gw-2"):
        node = lab.add_node(name)
        lab.mint(node)
        lab.set_endpoint(node)
    member, *gateways = lab.nodes.values()
    internet.run("ip", "link", "add", "core", "type", "bridge")
    internet.run("ip", "link", "set", "core", "up")
    for address, length in zip(INTERNET, ("/24", "/64"), strict=True):
        nodad = ("nodad",) if ":" in address else ()
        internet.run("ip", "address", "add", f"{address}{length}", "dev", "core", *nodad)
    for address in FAR:
        internet.run("ip", "address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
    for number, gateway in enumerate(gateways, 1):
        addresses = [(f"9.9.9.1{number}/24", ""), (f"2620:fe:9::1{number}/64", "")]
        connect(gateway.namespace, internet, *addresses, names=("eth1", f"to-gw{number}"))
        internet.run("ip", "link", "set", f"to-gw{number}", "master", "core")
        forward(gateway)
        gateway.namespace.run("ip", "route", "add", "default", "via", INTERNET[0])
        gateway.namespace.run("ip", "-6", "route", "add", "default", "via", INTERNET[1])
        routes_of(lab, gateway, *BOTH)
    chain, inside = lab.chain.namespace, member.namespace
    for namespace, device, address in ((chain, "lan", "1"), (inside, "eth0", "2")):
        namespace.run("ip", "address", "add", f"{V6_LAN}{address}/64", "dev", device, "nodad")
    inside.run("ip", "route", "add", "default", "via", lab.chain.address)
    inside.run("ip", "route", "add", "::/0", "via", f"{V6_LAN}1")
    inside.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1", "net.ipv4.conf.all.rp_filter=1")
    server = internet.popen(
        *(sys.executable, "-c", _SERVER, str(PORT)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    for gateway in gateways:
        gateway.start()
    for gateway in gateways:
        gateway.wait_ready()
    first, second = gateways
    return World(lab, internet, member, (first, second), {"EXIT_NODE": "gw-1,gw-2"})


def behind(world: World) -> Namespace:
    """Return a container on the member's machine, whose source is translated as Docker does it."""
    inside, run = world.lab._new_namespace("box"), world.member.namespace.run
    connect(inside, world.member.namespace, ("172.18.0.2/24", "172.18.0.1/24"), names=("eth0", "br0"))
    inside.run("ip", "route", "add", "default", "via", "172.18.0.1")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    rule = 'ip saddr 172.18.0.0/24 oifname != "br0" masquerade'
    hook = "type nat hook postrouting priority srcnat;"
    run("nft", f"add table ip docker {{ chain out {{ {hook} {rule}; }}; }}")
    return inside


def ours_left(node: LabNode) -> list[str]:
    """Return what dstack-vpn has left of an exit on a node: rules, routes and tables."""
    run = node.namespace.run
    rules = [line for v in ("-4", "-6") for line in run("ip", v, "rule").splitlines() if "proto 118" in line]
    routes = [
        line
        for v in ("-4", "-6")
        for line in run("ip", v, "route", "show", "table", "all").splitlines()
        if "proto 118" in line
    ]
    tables = [line for line in run("nft", "list", "tables").splitlines() if "dstack" in line]
    return rules + routes + tables


def guarded(node: LabNode) -> bool:
    """Return whether a kill switch is in force."""
    return "dstack_exit_wg0" in node.namespace.run("nft", "list", "tables")


def kill_all(node: LabNode) -> None:
    """Kill a node's daemon and its wireguard-go, so that nothing can be cleaned up."""
    device = node.namespace.pid_of("wireguard-go")
    node.stop(signal.SIGKILL)
    if device is not None:
        node.namespace.run("kill", "-9", str(device))
        wait_until(lambda: node.namespace.pid_of("wireguard-go") is None, "wireguard-go has ended")


def logged(path: Path, event: str) -> list[dict[str, Any]]:
    """Return a node's log lines of one event."""
    found = (json.loads(line) for line in path.read_text().splitlines() if line.startswith("{"))
    return [line for line in found if line.get("event") == event]


def serve_names(internet: Namespace, address: str) -> None:
    """Answer each question for an address with 192.0.2.53, as a resolver of the internet."""
    server = internet.popen(
        *(sys.executable, "-c", _NAMES, address), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
