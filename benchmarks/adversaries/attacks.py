"""The attacks of a member, c, on a node, a."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final, TypeAlias

import dns.message
import dns.rrset
from demo.lab import Lab
from demo.node import LabNode
from tests.netns_support import Namespace

from benchmarks.adversaries import hunger
from benchmarks.harness import new_key
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.x25519 import derive

TICK: Final = 0.02
"""Seconds between bursts of the stream."""
TICKS: Final = 1000
"""The length of an attack: 20 s."""
BLOCK: Final = 5
"""Ticks between blocks."""
BURST: Final = 20
"""Datagrams of 1,000 bytes per tick: 8 Mbit/s."""
SILENT_AFTER: Final = 2.0
"""Seconds from the start of an attack until its member goes silent."""
DATA: Final = 4
"""WireGuard's message type of transport data."""

Turn: TypeAlias = Callable[[int], None]
"""Carries out an attack's actions in the tick with the given number."""
Attack: TypeAlias = Callable[["Stage"], AbstractContextManager[Turn]]


@dataclass
class Stage:
    """A network with the attacked node a, a bystander b, an attacker c, and a non-member."""

    lab: Lab
    third: socket.socket
    elsewhere: str
    """The non-member's address and port."""
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.a, self.b, self.c = (self.lab.nodes[name] for name in "abc")
        with self.a.namespace.entered():
            self.stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stream.setblocking(False)

    def point(self, endpoint: str) -> None:
        """Mine a block in which c sets its endpoint."""
        self.lab.chain.send(calls.set_endpoint(self.c.token, endpoint), sender=self.c.owner)

    def block(self) -> None:
        """Mine a block without a transaction."""
        self.lab.chain.rpc("evm_mine")

    def send(self) -> None:
        """Send one tick's datagrams of the stream from a to c."""
        for _ in range(BURST):
            try:
                self.stream.sendto(bytes(1000), (self.c.address, 9))
            except OSError:
                return  # the interface's queue is full

    def look(self) -> None:
        """Count the bytes and data packets that arrived at the non-member."""
        try:
            while data := self.third.recv(2048):
                self.found["third_party_bytes"] += len(data)
                self.found["third_party_data"] += data[0] == DATA
        except BlockingIOError:
            return


@contextmanager
def honest(stage: Stage) -> Iterator[Turn]:
    """No attack."""
    yield lambda tick: None if tick % BLOCK else stage.block()


@contextmanager
def honest_stream(stage: Stage) -> Iterator[Turn]:
    """No attack, but the stream of the attacks with endpoints."""

    def turn(tick: int) -> None:
        stage.send()
        if tick % BLOCK == 0:
            stage.block()

    yield turn


def pointing(endpoint: Callable[[Stage], str]) -> Attack:
    """Return an attack with a stream to c, which sets another endpoint and then goes silent."""

    @contextmanager
    def attack(stage: Stage) -> Iterator[Turn]:
        def turn(tick: int) -> None:
            stage.send()
            stage.look()
            if tick == 0:
                stage.point(endpoint(stage))
            elif tick == round(SILENT_AFTER / TICK):
                os.kill(wireguard(stage.c.namespace), signal.SIGSTOP)
            elif tick % BLOCK == 0:
                stage.block()

        stage.found |= {"third_party_bytes": 0, "third_party_data": 0}
        yield turn

    return attack


@contextmanager
def flipping(stage: Stage) -> Iterator[Turn]:
    """An attack with a stream to c, which changes its endpoint in each block."""
    there = (stage.elsewhere, stage.c.endpoint)

    def turn(tick: int) -> None:
        stage.send()
        stage.look()
        if tick % BLOCK == 0:
            stage.point(there[tick // BLOCK % 2])

    stage.found |= {"third_party_bytes": 0, "third_party_data": 0}
    yield turn


@contextmanager
def names(stage: Stage) -> Iterator[Turn]:
    """An attack with an unresolvable endpoint name in each block.

    Halfway, another member sets a resolvable name. The attack measures when a resolves it.
    """
    chain = stage.lab.chain
    key = derive(new_key())
    token = stage.lab.mint_key("d", key).minted
    with chain.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind((chain.address, 53))
        file = stage.lab.run.home / "resolv.conf"
        file.write_text(f"nameserver {chain.address}\n")
        stage.a.namespace.run("mount", "--bind", file, "/etc/resolv.conf")
        threading.Thread(target=_resolve, args=(resolver,), daemon=True).start()
        written = 0.0

        def turn(tick: int) -> None:
            nonlocal written
            if tick == TICKS // 2:
                chain.send(calls.set_endpoint(token, "known.example:51820"), sender=9)
                written = time.monotonic()
            elif tick % BLOCK == 0:
                stage.point(f"n{tick}.never.example:51820")
            if written and "resolved_after_s" not in stage.found and stage.a.place_of(key):
                stage.found["resolved_after_s"] = round(time.monotonic() - written, 3)

        yield turn


def _resolve(resolver: socket.socket) -> None:
    """Reply to queries for one name only."""
    while True:
        try:
            data, client = resolver.recvfrom(4096)
        except OSError:
            return
        query = dns.message.from_wire(data)
        if query.question[0].name.to_text() == "known.example.":
            answer = dns.message.make_response(query)
            answer.answer.append(dns.rrset.from_text("known.example.", 60, "IN", "A", "192.0.2.1"))
            resolver.sendto(answer.to_wire(), client)


def hungry(kind: str) -> Attack:
    """Return an attack in which c takes all it can get, from all of its addresses."""

    @contextmanager
    def attack(stage: Stage) -> Iterator[Turn]:
        a, c = stage.a, stage.c
        strangers = [f"192.168.77.{100 + number}" for number in range(16)]
        for address in strangers:
            c.namespace.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        inside = [*zip(tunnel_addresses(c), tunnel_addresses(a), strict=True)]
        outside = [(address, a.underlay) for address in strangers]
        command = (sys.executable, hunger.__file__, kind, json.dumps(inside), json.dumps(outside))
        process = c.namespace.popen("nice", "-n", "19", *command, stdin=PIPE, stdout=PIPE)
        yield lambda tick: None if tick % BLOCK else stage.block()
        output, _ = process.communicate(timeout=60)
        stage.found |= json.loads(output)

    return attack


def tunnel_addresses(node: LabNode) -> list[str]:
    """Return a node's addresses in the tunnel, IPv4 first."""
    (link,) = json.loads(node.namespace.run("ip", "-j", "address", "show", "dev", "wg0"))
    found = sorted(link["addr_info"], key=lambda each: each["family"])
    return [each["local"] for each in found if each["scope"] == "global"]


def wireguard(namespace: Namespace) -> int:
    """Return the process id of the wireguard-go in a namespace."""
    pids = namespace.run("ip", "netns", "pids", namespace.name).split()
    return next(int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "wireguard-go\n")


ATTACKS: Final[dict[str, Attack]] = {
    "honest": honest,
    "honest with a stream": honest_stream,
    "endpoint: its own tunnel address": pointing(lambda stage: f"{stage.c.address}:51820"),
    "endpoint: a third party": pointing(lambda stage: stage.elsewhere),
    "endpoint: another in each block": flipping,
    "names that never resolve": names,
    "every connection": hungry("hold"),
    "DNS flood": hungry("flood"),
    "flood that the daemon does not read": hungry("drop"),
}
