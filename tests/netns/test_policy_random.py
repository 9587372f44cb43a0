"""Random policies on three real nodes: packets pass if and only if the evaluation permits them.

No program listens on the nodes. A TCP or UDP packet that passes is refused by the other kernel
(RST, ICMP), and an echo request is answered. A packet that is denied gets no reply.
"""

import errno
import ipaddress
import json
import random
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.netns.conftest import connect_three
from tests.netns.policies import Network, set_text

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.core.policy.evaluation import Packet, allows
from dstack_vpn.core.policy.selectors import Protocol

pytestmark = [pytest.mark.netns, pytest.mark.anvil]

SEEDS = range(12)
TAGS = ("web", "db", "ops")
PREFIXES = (ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd00::/8"))
PORTS = (22, 80, 443, 5432)
LARGE = 4000
"""Bytes of a datagram that is sent in fragments."""
PATIENCE = 30.0
"""Seconds for replies that must come: two nodes that become peers at once may need several
handshakes, and WireGuard repeats one after 5 s."""
SILENCE = 0.4
"""Seconds without a reply, after all replies that must come, until a packet counts as denied."""
NO_PEER = {errno.ENOKEY, errno.EDESTADDRREQ, errno.ENETUNREACH, errno.EHOSTUNREACH}
"""The errors of WireGuard for an address without a peer."""


def random_policy(choose: random.Random) -> str:
    """Return a policy that matters for three nodes."""
    sources = ["*", *(f"tag:{tag}" for tag in TAGS), "node:a", "node:b", "node:c"]
    targets = [*sources, "autogroup:self"]
    ports = ["*", "tcp:*", "udp:*", "icmp:*", "tcp:22", "tcp:80-443", "udp:53-5432", "tcp:5432"]
    grants = [
        {
            "src": choose.sample(sources, choose.randint(1, 2)),
            "dst": choose.sample(targets, choose.randint(1, 2)),
            "ip": choose.sample(ports, choose.randint(1, 3)),
        }
        for _ in range(choose.randint(1, 4))
    ]
    return json.dumps({"grants": grants})


@dataclass
class Attempt:
    """A packet from one node to another, and the socket that waits for the reply."""

    source: LabNode
    destination: LabNode
    packet: Packet
    size: int
    opened: socket.socket
    expected: bool
    passed: bool = False

    def __str__(self) -> str:
        large = " in fragments" if self.size == LARGE else ""
        return f"{self.source.name} to {self.destination.name} {self.packet}{large} ({self.packet.dst})"


def addresses(node: LabNode) -> list[IPAddress]:
    """Return the tunnel addresses of a node."""
    found = node.get("/stats")["addresses"]
    return [ipaddress.ip_address(cidr.partition("/")[0]) for cidr in found]


class Trial:
    """The nodes with their tags, and the packets that are sent between them."""

    def __init__(self, network: Network, choose: random.Random) -> None:
        self.network, self.choose = network, choose
        self.masks = {name: choose.randrange(8) for name in network.lab.nodes}
        for name, node in network.lab.nodes.items():
            network.tag(node, self.masks[name])

    def directory(self) -> MemberDirectory:
        lab = self.network.lab
        members = [
            Member(
                node.token,
                name,
                lab.chain.accounts[node.owner].lower(),
                frozenset(tag for bit, tag in enumerate(TAGS) if self.masks[name] >> bit & 1),
                frozenset(addresses(node)),
            )
            for name, node in lab.nodes.items()
        ]
        return MemberDirectory.of(members, PREFIXES)

    def attempts(self, policy: PolicyDocument) -> Iterator[Attempt]:
        directory, lab = self.directory(), self.network.lab
        for source in lab.nodes.values():
            for destination in lab.nodes.values():
                if source is not destination:
                    for packet in self.packets(source, destination):
                        expected = allows(policy, directory, packet)
                        large = packet.protocol is Protocol.UDP and self.choose.random() < 0.3
                        size = LARGE if large else 8
                        with source.namespace.entered():
                            opened = open_socket(packet)
                        yield Attempt(source, destination, packet, size, opened, expected)

    def packets(self, source: LabNode, destination: LabNode) -> Iterator[Packet]:
        for src in addresses(source):
            for dst in addresses(destination):
                if src.version == dst.version:
                    yield Packet(src, dst, Protocol.ICMP)
                    for port in self.choose.sample(PORTS, 3):
                        yield Packet(src, dst, Protocol.TCP, port)
                        yield Packet(src, dst, Protocol.UDP, port)


def open_socket(packet: Packet) -> socket.socket:
    family = socket.AF_INET6 if packet.dst.version == 6 else socket.AF_INET
    match packet.protocol:
        case Protocol.TCP:
            opened = socket.socket(family, socket.SOCK_STREAM)
        case Protocol.UDP:
            opened = socket.socket(family, socket.SOCK_DGRAM)
        case _:
            number = socket.IPPROTO_ICMPV6 if packet.dst.version == 6 else socket.IPPROTO_ICMP
            opened = socket.socket(family, socket.SOCK_RAW, number)
    opened.setblocking(False)
    opened.bind((str(packet.src), 0))
    return opened


def send(attempt: Attempt) -> None:
    """Send the packet; a refusal by our own WireGuard is a denial."""
    packet = attempt.packet
    try:
        if packet.protocol is Protocol.ICMP:
            kind = 128 if packet.dst.version == 6 else 8
            echo = struct.pack(">BBHHH", kind, 0, 0, attempt.opened.fileno(), 1)
            if packet.dst.version == 4:
                echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
            attempt.opened.sendto(echo, (str(packet.dst), 0))
            return
        attempt.opened.connect((str(packet.dst), packet.port))
        if packet.protocol is Protocol.UDP:
            attempt.opened.send(bytes(attempt.size))
    except BlockingIOError:
        return  # TCP's connection is in progress
    except OSError as error:
        if error.errno not in NO_PEER:
            raise


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def receive(attempt: Attempt) -> None:
    """Note a reply: a refusal of the port, or the answer to an echo request."""
    packet, opened = attempt.packet, attempt.opened
    if packet.protocol is not Protocol.ICMP:
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        attempt.passed |= code == errno.ECONNREFUSED
        return
    while True:
        try:
            data, peer = opened.recvfrom(2048)
        except (BlockingIOError, OSError):
            return
        if packet.dst.version == 4:
            data = data[(data[0] & 15) * 4 :]
        kind, _, _, identifier, _ = struct.unpack(">BBHHH", data[:8])
        reply = 129 if packet.dst.version == 6 else 0
        if kind == reply and identifier == opened.fileno() and peer[0] == str(packet.dst):
            attempt.passed = True


def collect(attempts: list[Attempt], wait: float) -> None:
    """Note the replies that come within some seconds."""
    poller, by_number = select.poll(), {each.opened.fileno(): each for each in attempts}
    for number, each in by_number.items():
        if not each.passed:
            poller.register(number, select.POLLIN if each.packet.protocol is Protocol.ICMP else 0)
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        for number, _ in poller.poll(left * 1000):
            receive(by_number[number])
            if by_number[number].passed or by_number[number].packet.protocol is not Protocol.ICMP:
                poller.unregister(number)


def outcomes(attempts: Iterable[Attempt]) -> list[str]:
    """Send all packets, and return the differences to what was expected."""
    listed = list(attempts)
    for each in listed:
        send(each)
    end = time.monotonic() + PATIENCE
    while any(each.expected and not each.passed for each in listed) and time.monotonic() < end:
        collect(listed, 0.2)
        for each in listed:
            if each.expected and not each.passed and each.packet.protocol is not Protocol.TCP:
                send(each)  # WireGuard keeps few packets until the handshake is over
    collect(listed, SILENCE)
    for each in listed:
        each.opened.close()
    return [
        f"{each}: {'passed' if each.passed else 'no reply'}"
        for each in listed
        if each.passed is not each.expected
    ]


@pytest.fixture(scope="module")
def network(tools: Any) -> Iterator[Network]:
    with Lab(tools) as lab:
        lab.start_chain()
        made = Network(connect_three(lab))
        for node in lab.nodes.values():
            # The kernel would refuse only one packet a second.
            node.namespace.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_packets_pass_if_and_only_if_the_policy_allows_them(network: Network, seed: int) -> None:
    choose = random.Random(seed)
    trial = Trial(network, choose)
    text = random_policy(choose)
    set_text(network.lab, text)
    different = outcomes(trial.attempts(parse_policy(text)))
    assert different == [], "\n".join((text, *map(state, network.lab.nodes.values())))


def state(node: LabNode) -> str:
    """Return what explains a packet that was lost: the tunnels and the rules of a node."""
    rules = node.namespace.run("nft", "list", "ruleset")
    return f"-- {node.name}\n{node.device().peers}\n{rules}"


SPOOFED = 5432


def test_a_spoofed_source_has_no_rights(network: Network) -> None:
    """WireGuard drops a packet whose source is another member's."""
    a, b, c = network.a, network.b, network.c
    grants = [{"src": ["node:c"], "dst": ["node:b"], "ip": [f"udp:{SPOOFED}"]}]
    grants.append({"src": ["node:a"], "dst": ["node:b"], "ip": ["icmp:*"]})
    set_text(network.lab, json.dumps({"grants": grants}))
    with b.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((b.address, SPOOFED))
        listening.settimeout(SILENCE)
        a.wait_reaches(b.address)
        send_raw(a, c.address, b.address)
        with pytest.raises(TimeoutError):
            listening.recv(100)
        listening.settimeout(PATIENCE)
        send_raw(c, c.address, b.address)
        assert listening.recv(100) == b"spoofed?"


def send_raw(node: LabNode, source: str, destination: str) -> None:
    """Send a UDP packet with any source address."""
    payload = b"spoofed?"
    udp = struct.pack(">HHHH", 40_000, SPOOFED, 8 + len(payload), 0) + payload
    head = struct.pack(
        ">BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0),
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    with (
        node.namespace.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as opened,
    ):
        opened.sendto(head + udp, (destination, 0))
