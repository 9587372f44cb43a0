"""The metrics about few and many peers, in Prometheus' format and by its own parser."""

import shutil
import subprocess
from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.anvil import key_of

from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Malformed, Peer, PeerState
from dstack_vpn.core.observe.health import Health
from dstack_vpn.core.observe.reports import Reports
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.wiring.metrics import _written
from dstack_vpn.wiring.peer_metrics import ONE_BY_ONE, peer_families
from dstack_vpn.wiring.snapshot import NodeSnapshot

NOW = 10_000.0
RELAY = {
    **dict.fromkeys(("datagrams_up", "datagrams_down", "reconnects", "stalls", "queued_bytes"), 3),
    "drops": {"queue": 2, "oversize": 0},
    "rtt_ms": 12.5,
}


def snapshot(count: int) -> NodeSnapshot:
    """Return peers: the first by TLS, the second silent for an hour, the third never connected."""
    keys = [key_of(number) for number in range(count)]
    seen = {
        key: PeerState(key, frozenset(), last_handshake=NOW - age, rx_bytes=100, tx_bytes=7)
        for key, age in zip(keys, [10.0, 3600.0, NOW, *[20.0] * count], strict=False)
    }
    nodes = [Node(number + 1, "0xa", f"node-{number}", key) for number, key in enumerate(keys)]
    nodes[3] = Node(4, "0xa", Malformed("not a name"), keys[3])
    relayed: dict[PublicKey, dict[str, Any]] = {keys[0]: {"transport": "tls", "relay": RELAY}}
    return NodeSnapshot(
        now=NOW,
        health=Health(ready=True),
        registry=Registry.of(nodes),
        peers={key: Peer(key, frozenset()) for key in keys},
        networks=frozenset(),
        tokens={key: number + 1 for number, key in enumerate(keys)},
        seen=seen,
        round_trips={keys[0]: 0.02},
        silent={keys[4]: NOW - 30.0} if count == 5 else {},
        relayed=relayed,
        carried=Counter({"datagrams_up": 5, "dropped queue": 2}),
        calls_by=None,
        reports=Reports(started=0.0),
        common={},
    )


def written(count: int) -> str:
    return _written(list(peer_families(snapshot(count))))[1].decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return samples by name and labels, the labels in alphabetical order of their names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("dstack_vpn_")
    }


def test_few_peers_have_series_of_their_own() -> None:
    found = samples(written(5))
    assert found["dstack_vpn_peers", "connected", "udp"] == 1
    assert found["dstack_vpn_peers", "connected", "tls"] == 1
    assert found["dstack_vpn_peers", "no_answer", "udp"] == 1
    assert found["dstack_vpn_peer_unanswered_seconds", "node-4", "5"] == 30
    assert found["dstack_vpn_peer_unanswered_seconds", "node-0", "1"] == 0
    assert found["dstack_vpn_peers", "stale", "udp"] == 1
    assert found["dstack_vpn_peers", "never", "udp"] == 1
    assert found["dstack_vpn_oldest_handshake_age_seconds",] == 3600
    assert found["dstack_vpn_peer_handshake_age_seconds", "node-0", "1"] == 10
    assert found["dstack_vpn_peer_round_trip_seconds", "node-0", "1"] == 0.02
    assert ("dstack_vpn_peer_round_trip_seconds", "node-1", "2") not in found
    assert found["dstack_vpn_peer_receive_bytes_total", "node-1", "2"] == 100
    assert found["dstack_vpn_peer_transport", "node-0", "1", "tls"] == 1
    assert found["dstack_vpn_peer_relay_dropped_datagrams_total", "node-0", "queue", "1"] == 2
    assert found["dstack_vpn_peer_relay_rtt_seconds", "node-0", "1"] == 0.0125
    assert found["dstack_vpn_peers_relay_datagrams_total", "up"] == 5
    assert ("dstack_vpn_peer_handshake_age_seconds", "node-2", "3") not in found


@pytest.mark.parametrize("count", [ONE_BY_ONE + 1, 1000])
def test_many_peers_have_sums_alone(count: int) -> None:
    found = samples(written(count))
    assert not [key for key in found if key[0].startswith("dstack_vpn_peer_")]
    assert sum(value for key, value in found.items() if key[0] == "dstack_vpn_peers") == count
    assert found["dstack_vpn_peers_relay_dropped_datagrams_total", "queue"] == 2
    assert len(found) < 40


@pytest.mark.parametrize("count", [5, 201])
def test_promtool_has_nothing_to_say(count: int) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMTOOL: the metrics are NOT linted; scripts/setup test installs it")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=written(count), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
