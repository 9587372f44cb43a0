"""Two nodes that get each other as a new peer at the same moment, with a slow link between them.

Both send a keepalive at once, so their initiations cross and cancel each other.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from demo.lab import Lab
from demo.node import WIREGUARD_PORT, LabNode
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
FORWARDER = 51999
ROUND_TRIP = 0.2
"""Seconds. The nodes see the block within a fraction of that."""
REKEY_TIMEOUT = 5.0
"""WireGuard's pause between two initiations to a peer, in seconds."""
OF_HUB = json.dumps({"grants": [{"src": ["node:hub"], "dst": ["*"], "ip": ["*"]}]})
OF_ALL = json.dumps({"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]})


def add(lab: Lab, name: str) -> LabNode:
    """Add a node whose endpoint delays the packets that it receives."""
    node = lab.add_node(name)
    lab.mint(node)
    lab.chain.send(calls.set_endpoint(node.token, f"{node.underlay}:{FORWARDER}"), sender=node.owner)
    script = Path(__file__).with_name("delaying.py")
    there = node.underlay, str(FORWARDER), node.underlay, str(WIREGUARD_PORT), str(ROUND_TRIP)
    process = node.namespace.popen(sys.executable, script, *there, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return node


def session(node: LabNode, other: LabNode) -> float:
    """Return the time of the last handshake with the other node (Unix seconds); 0: no session."""
    peer = node.device().peers.get(other.public_key)
    return 0.0 if peer is None else peer.last_handshake


def test_initiations_of_two_new_peers_that_cross_are_repeated(empty_lab: Lab) -> None:
    a, b, hub = (add(empty_lab, name) for name in ("a", "b", "hub"))
    empty_lab.chain.send(calls.set_policy(OF_HUB))
    for node in (a, b, hub):
        node.start(PERSISTENT_KEEPALIVE="25s")
    for node in (a, b, hub):
        node.wait_ready()
    for node in (a, b):
        wait_until(partial(session, node, hub), f"{node.name} has a session with the hub", 15.0)
        assert set(node.device().peers) == {hub.public_key}
    before = empty_lab.chain.send(calls.set_policy(OF_ALL)).ordered
    for node, other in ((a, b), (b, a)):
        what = f"{node.name} has a session with {other.name}"
        wait_until(partial(session, node, other), what, 15.0)
        seconds = session(node, other) - before
        sys.stderr.write(f"{what} after {seconds:.2f} s\n")
        assert seconds < REKEY_TIMEOUT - 1.0
