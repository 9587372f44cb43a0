"""Nodes that reach each other over relays: real daemons, real WireGuard, real firewalls in between."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from demo.lab import Lab
from demo.node import LabNode
from demo.ping import Ping
from prometheus_client.parser import text_string_to_metric_families
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
RELAY = "0.0.0.0:8443"
SLOW = 60
"""Seconds: UDP is first probed after 22 to 38."""
FIREWALL = """
table inet blocked {
    chain in { type filter hook input priority 0; iifname "eth0" udp dport 51820 drop; }
    chain out { type filter hook output priority 0; oifname "eth0" udp sport 51820 drop; }
}"""


def events(node: LabNode, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def peer_of(node: LabNode, other: LabNode) -> dict[str, Any]:
    found: dict[str, Any] = node.get("/stats")
    return next(p for p in found["peers"] if p["public_key"] == str(other.public_key))


def transport(node: LabNode, other: LabNode) -> object:
    return peer_of(node, other)["transport"]


def block_udp(node: LabNode) -> None:
    """Nothing of WireGuard's own gets in or out."""
    node.namespace.run("nft", "-f", "-", text=FIREWALL)


def unblock_udp(node: LabNode) -> None:
    node.namespace.run("nft", "delete", "table", "inet", "blocked")


def start(lab: Lab, name: str, **settings: str) -> LabNode:
    node = lab.add_node(name)
    lab.mint(node)
    node.start(**settings)
    return node


def reach_by(lab: Lab, node: LabNode, endpoint: str, on: LabNode) -> None:
    """Write an endpoint into the registry, and wait until another node has it."""
    lab.chain.send(calls.set_endpoint(node.token, endpoint), sender=node.owner)
    wait_until(lambda: on.place_of(node.public_key) is not None, f"{on.name} knows where {node.name} is")


def pin(node: LabNode) -> str:
    wait_until(lambda: events(node, "relay.listening"), f"{node.name} takes relays")
    return str(events(node, "relay.listening")[-1]["pin"])


def load(a: LabNode, b: LabNode) -> None:
    """Traffic both ways, until the namespaces end: what is under way must not turn WireGuard back."""
    b.namespace.popen("iperf3", "--server", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: ":5201" in b.namespace.run("ss", "-Hltn"), "iperf3 listens")
    options = ("--time", "300", "--bidir", "--bitrate", "50M")
    a.namespace.popen("iperf3", "--client", b.address, *options, stdout=subprocess.DEVNULL)


@contextmanager
def pinging(lab: Lab, a: LabNode, b: LabNode) -> Iterator[Ping]:
    ping = Ping(a.namespace, b.address, lab.run.home / "ping.log")
    try:
        yield ping
    finally:
        ping.stop()


def test_where_udp_is_blocked_a_relay_carries_and_udp_comes_back_without_loss(empty_lab: Lab) -> None:
    lab = empty_lab
    b = start(lab, "b", RELAY_LISTEN=f"tls://{RELAY}")
    a = start(lab, "a")
    for node in (a, b):
        node.wait_ready()
    reach_by(lab, b, f"{b.endpoint},tls://{b.underlay}:8443?pin={pin(b)}", a)
    a.wait_reaches(b.address)
    assert transport(a, b) == "udp"
    with pinging(lab, a, b) as ping:
        block_udp(b)
        wait_until(lambda: transport(a, b) == "tls", "a has switched to TLS", SLOW)
        a.wait_reaches(b.address)
        load(a, b)
        first = ping.mark()
        unblock_udp(b)
        wait_until(lambda: transport(a, b) == "udp", "a is back on UDP", SLOW)
        found = ping.between(first, ping.mark(at_least=ping.mark() + 400))
    assert found.lost == 0
    wait_until(lambda: str(a.device().peers[b.public_key].endpoint) == b.endpoint, "WireGuard stays there")


def test_a_peer_that_can_only_be_reached_by_a_relay_is_reached_by_it(empty_lab: Lab) -> None:
    b = start(empty_lab, "b", RELAY_LISTEN=f"tcp://{RELAY}")
    block_udp(b)
    a = start(empty_lab, "a", TRANSPORT="tcp")
    for node in (a, b):
        node.wait_ready()
    reach_by(empty_lab, b, f"{b.endpoint},tcp://{b.underlay}:8443", a)
    a.wait_reaches(b.address)
    seen = peer_of(a, b)
    assert seen["transport"] == "tcp"
    assert seen["relay"]["upstream"] == f"tcp://{b.underlay}:8443"
    assert seen["endpoint"].startswith("127.0.0.1:")


def test_metrics_tell_how_each_peer_is_reached(empty_lab: Lab) -> None:
    b = start(empty_lab, "b", RELAY_LISTEN=f"tcp://{RELAY}")
    a = start(empty_lab, "a")
    for node in (a, b):
        node.wait_ready()
    reach_by(empty_lab, b, f"tcp://{b.underlay}:8443", a)
    a.wait_reaches(b.address)
    ours, theirs = metrics(a), metrics(b)
    labels = {"node_id": "b", "token": str(b.token), "transport": "tcp"}
    assert ours["dstack_vpn_peer_transport"] == [(labels, 1.0)]
    assert ours["dstack_vpn_peer_relay_datagrams_up_total"][0][1] > 0
    assert theirs["dstack_vpn_relay_connections"] == [({}, 1.0)]


def metrics(node: LabNode) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What Prometheus' own parser makes of a node's metrics."""
    body = node.fetch("127.0.0.1", 8080, "/metrics")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found
