"""Nodes that use relays: real daemons, WireGuard and firewalls."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

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
"""Seconds: several times as long as an `EAGER` daemon needs, for a busy machine."""
EAGER = (str(Path(__file__).with_name("eager.py")),)
OFFERED: Final = 50.0
"""Mbit/s that the load sends in each direction."""
STEADY: Final = 2
"""Consecutive reports of iperf3 that must be within `ROUGHLY`; each covers 0.5 s."""
ROUGHLY: Final = (0.8 * OFFERED, 1.2 * OFFERED)
"""Mbit/s of a steady load in each direction: after its ramp-up, without a backlog."""
_REPORT: Final = re.compile(r"\]\[(TX|RX)-C\] .* ([\d.]+) Mbits/sec")
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


def way(node: LabNode) -> str | None:
    """Return the path after the last change in a node's log.

    API requests every 3 ms would slow the daemon's relay down.
    """
    changes = events(node, "peer.transport")
    return changes[-1]["way"] if changes else None


def block_udp(node: LabNode) -> None:
    """Drop all packets to and from WireGuard's UDP port."""
    node.namespace.run("nft", "-f", "-", text=FIREWALL)


def unblock_udp(node: LabNode) -> None:
    node.namespace.run("nft", "delete", "table", "inet", "blocked")


def start(lab: Lab, name: str, *, program: tuple[str, ...] = LabNode.program, **settings: str) -> LabNode:
    node = lab.add_node(name, program=program)
    lab.mint(node)
    node.start(**settings)
    return node


def reach_by(lab: Lab, node: LabNode, endpoint: str, on: LabNode) -> None:
    """Set an endpoint in the registry, and wait until another node has it."""
    lab.chain.send(calls.set_endpoint(node.token, endpoint), sender=node.owner)
    wait_until(lambda: on.place_of(node.public_key) is not None, f"{on.name} has an endpoint of {node.name}")


def pin(node: LabNode) -> str:
    wait_until(lambda: events(node, "relay.listening"), f"{node.name} listens for relays")
    return str(events(node, "relay.listening")[-1]["pin"])


def load(a: LabNode, b: LabNode) -> Path:
    """Start traffic both ways, until the namespaces end; return the file of its reports.

    Packets in flight on the relay must not return WireGuard to the relay.
    """
    b.namespace.popen("iperf3", "--server", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: ":5201" in b.namespace.run("ss", "-Hltn"), "iperf3 listens")
    options = ("--time", "300", "--bidir", "--bitrate", f"{OFFERED:.0f}M")
    reports = ("--interval", "0.5", "--format", "m", "--forceflush")
    with (output := a.home / "iperf3.log").open("wb") as log:
        a.namespace.popen("iperf3", "--client", b.address, *options, *reports, stdout=log)
    return output


def is_steady(reports: Path) -> bool:
    """Return whether the latest reports show the offered rate in both directions."""
    found = [(way, float(rate)) for way, rate in _REPORT.findall(reports.read_text())]
    recent = [[rate for of, rate in found if of == way][-STEADY:] for way in ("TX", "RX")]
    lowest, highest = ROUGHLY
    return all(len(rates) == STEADY and lowest < min(rates) and max(rates) < highest for rates in recent)


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
    a = start(lab, "a", program=EAGER)
    for node in (a, b):
        node.wait_ready()
    reach_by(lab, b, f"{b.endpoint},tls://{b.underlay}:8443?pin={pin(b)}", a)
    a.wait_reaches(b.address)
    assert transport(a, b) == "udp"
    with pinging(lab, a, b) as ping:
        block_udp(b)
        wait_until(lambda: way(a) == "relay", "a uses the relay", SLOW)
        a.wait_reaches(b.address)
        reports = load(a, b)
        wait_until(lambda: is_steady(reports), "a steady load over the relay", SLOW)
        assert transport(a, b) == "tls"
        first = ping.mark()
        unblock_udp(b)
        wait_until(lambda: way(a) == "udp", "a uses UDP", SLOW)
        found = ping.between(first, ping.mark(at_least=ping.mark() + 400))
    assert found.lost == 0
    assert transport(a, b) == "udp"
    wait_until(lambda: str(a.device().peers[b.public_key].endpoint) == b.endpoint, "WireGuard stays on UDP")


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
    """Return a node's metrics, read by Prometheus' own parser."""
    body = node.fetch("127.0.0.1", 8080, "/metrics")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found
