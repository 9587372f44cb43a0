"""A member sets its endpoint to a third party's address, with real daemons and WireGuard."""

import socket
from contextlib import suppress

import pytest
from demo.lab import Lab
from demo.namespaces import wait_until
from demo.node import LabNode
from demo.ping import Ping
from tests.netns.test_transports import events

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
WATCHED = 400
"""Packets of the stream, for 2 s."""


def set_endpoint(lab: Lab, other: LabNode, endpoint: str, on: LabNode) -> None:
    """Set an endpoint in the registry, and wait until a node has read it."""

    def seen() -> int:
        kinds = [e["event_kind"] for e in events(on, "chain.event") if e["token"] == other.token]
        return kinds.count("endpoint updated")

    before = seen()
    lab.chain.send(calls.set_endpoint(other.token, endpoint), sender=other.owner)
    wait_until(lambda: seen() > before, f"{on.name} reads the endpoint")


def test_a_stream_does_not_follow_a_members_endpoint_to_a_third_party(lab: Lab, ping: Ping) -> None:
    a, b, third = lab.nodes["a"], lab.nodes["b"], lab.nodes["c"]
    with third.namespace.entered():
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listening:
        listening.bind((third.underlay, 5555))
        listening.setblocking(False)
        first = ping.mark()
        lab.chain.send(calls.set_endpoint(b.token, f"{third.underlay}:5555"), sender=b.owner)
        wait_until(
            lambda: any(
                e["token"] == b.token and "endpoint" in e["event_kind"] for e in events(a, "chain.event")
            ),
            "a reads the endpoint",
        )
        found = ping.between(first, ping.mark(at_least=ping.mark() + WATCHED))
        assert found.lost == 0, "the session goes on"
        with suppress(BlockingIOError):
            datagram = listening.recv(2048)
            raise AssertionError(f"{len(datagram)} bytes came")
        assert a.place_of(b.public_key) == b.endpoint


def test_packets_for_a_member_that_went_silent_do_not_follow_it_to_a_third_party(lab: Lab) -> None:
    """Without replies, WireGuard does not return to the old endpoint by itself."""
    a, b, third = lab.nodes["a"], lab.nodes["b"], lab.nodes["c"]
    with third.namespace.entered():
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listening:
        listening.bind((third.underlay, 5556))
        listening.setblocking(False)
        assert a.reaches(b.address, wait=1)
        b.namespace.run("ip", "route", "add", "blackhole", f"{a.underlay}/32")
        set_endpoint(lab, b, f"{third.underlay}:5556", on=a)
        for _ in range(5):
            assert not a.reaches(b.address, wait=0.2)
        with suppress(BlockingIOError):
            while True:
                assert listening.recv(2048)[0] == 1, "nothing but initiations of handshakes"
