"""Networks behind other nodes, as a member uses them. A machine is behind each gateway."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from demo.lab import Lab, Tools
from demo.node import HEALTH_PORT, INTERFACE, LabNode
from demo.ping import Ping
from tests.netns.offices import MACHINE, MACHINE6, NETWORK, NETWORK6, open_office
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.chain.invitation import canonical_routes

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]

EAGER = (str(Path(__file__).with_name("eager.py")),)


class Net(NamedTuple):
    """Two gateways for the same networks, a member that uses these, and a member that does not."""

    lab: Lab
    first: LabNode
    second: LabNode
    member: LabNode
    plain: LabNode


@pytest.fixture(scope="module")
def net(tools: Tools) -> Iterator[Net]:
    with Lab(tools) as lab:
        lab.start_chain()
        for name in ("gw-1", "gw-2", "member", "plain"):
            node = lab.add_node(name, program=EAGER)
            lab.mint(node)
            lab.set_endpoint(node)
        first, second, member, plain = lab.nodes.values()
        for gateway in (first, second):
            open_office(lab, gateway)
            lab.chain.send(calls.set_routes(gateway.token, [NETWORK, NETWORK6]))
        for node in (first, second, plain):
            node.start()
        member.start(ACCEPT_ROUTES="all")
        for node in lab.nodes.values():
            node.wait_ready()
        yield Net(lab, first, second, member, plain)


def networks(node: LabNode) -> dict[str, dict[str, Any]]:
    return {each["network"]: each for each in node.get("/stats").get("networks", ())}


def gateway_of(node: LabNode, network: str = NETWORK) -> str | None:
    found = networks(node).get(network, {}).get("node_id")
    return None if found is None else str(found)


def routed(node: LabNode) -> set[str]:
    """Return the destinations of our routes, to the interface and to the blackhole."""
    found = set()
    for family in ("-4", "-6"):
        for row in node.namespace.run("ip", family, "route", "show", "proto", "118").splitlines():
            words = row.split()
            found.add(f"blackhole {words[1]}" if words[0] == "blackhole" else words[0])
    return found & {f"{kind}{network}" for kind in ("", "blackhole ") for network in (NETWORK, NETWORK6)}


EVERY_ROUTE = {f"{kind}{network}" for kind in ("", "blackhole ") for network in (NETWORK, NETWORK6)}


def wait_routed(node: LabNode) -> None:
    """Wait for all routes of the host, which follow the device."""
    wait_until(lambda: routed(node) == EVERY_ROUTE, f"{node.name} routes both networks")


def wait_gateway(node: LabNode, name: str | None, timeout: float = 10.0) -> None:
    def moved() -> bool:
        return {gateway_of(node), gateway_of(node, NETWORK6)} == {name}

    wait_until(moved, f"{node.name} reaches the networks by {name}", timeout)


def kill(node: LabNode) -> None:
    """Kill a node's daemon and its WireGuard, as a power failure does."""
    node.stop(signal.SIGKILL)
    pid = node.namespace.pid_of("wireguard-go")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node.namespace.pid_of("wireguard-go") is None, "WireGuard has ended")


def test_a_member_reaches_the_machines_behind_a_gateway(net: Net) -> None:
    wait_gateway(net.member, "gw-1")
    for address in (MACHINE, MACHINE6):
        net.member.wait_reaches(address)
        assert not net.plain.reaches(address, wait=0.2), "it does not accept any network"
    wait_routed(net.member)
    assert routed(net.plain) == set()
    assert networks(net.plain) == {}
    assert networks(net.member)[NETWORK]["gateways"] == ["gw-1", "gw-2"]
    assert net.member.component("routes") == ("ok", "")
    addresses = net.member.get("/peers/gw-1")["peer"]["addresses"]
    assert addresses[0] == f"{net.first.address}/32"
    assert len(addresses) == 2
    metrics = net.member.fetch("127.0.0.1", HEALTH_PORT, "/metrics")
    assert 'dstack_vpn_networks{state="used"} 2.0' in metrics


def test_a_plan_shows_the_networks_and_changes_nothing(net: Net) -> None:
    member = net.member
    wait_gateway(member, "gw-1")
    for accepted, by in (("all", "gw-1"), ("10.1.0.0/16", None)):
        plan = subprocess.run(
            member.namespace.command(sys.executable, "-m", "dstack_vpn", "plan", "--json"),
            env=member.environment() | {"ACCEPT_ROUTES": accepted},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        document = json.loads(plan.stdout)
        shown = {each["network"]: each["node_id"] for each in document["networks"]}
        assert shown == ({} if by is None else {NETWORK: by, NETWORK6: by})
        assert [each["node_id"] for each in document["changes"]] == ([] if by else ["gw-1"])


def test_a_policy_decides_which_networks_a_member_uses(net: Net) -> None:
    lab, member = net.lab, net.member

    def grants(*destinations: str) -> str:
        return json.dumps({"grants": [{"src": ["node:member"], "dst": [*destinations], "ip": ["*"]}]})

    try:
        # A grant to a network alone makes its gateway a peer, and replies pass the packet filter.
        lab.chain.send(calls.set_policy(grants(NETWORK)))
        wait_until(lambda: routed(member) == {NETWORK, f"blackhole {NETWORK}"}, "only one is used")
        member.wait_reaches(MACHINE)
        assert "no grant of the policy" in networks(member)[NETWORK6]["problem"]
        lab.chain.send(calls.set_policy(grants("node:plain")))
        wait_until(lambda: routed(member) == set(), "no network is used")
    finally:
        lab.chain.send(calls.set_policy(""))
    wait_gateway(member, "gw-1")
    for address in (MACHINE, MACHINE6):
        member.wait_reaches(address)


def test_a_network_moves_from_a_dead_gateway_and_returns(net: Net) -> None:
    lab, member = net.lab, net.member
    wait_gateway(member, "gw-1")
    member.wait_reaches(MACHINE)
    member.wait_reaches(net.plain.address)
    measured = "round_trip_ms"
    wait_until(lambda: member.get("/peers/gw-1")["peer"][measured], "the gateway replies to echoes")
    to_machine = Ping(member.namespace, MACHINE, lab.run.home / "machine.log")
    other = Ping(member.namespace, net.plain.address, lab.run.home / "other.log")
    try:
        start, other_start = to_machine.mark(), other.mark()
        kill(net.first)
        wait_gateway(member, "gw-2")
        moved = to_machine.mark()
        loss = to_machine.between(start, moved)
        assert loss.longest_gap <= 3.0

        # It returns when the gateway was alive for a while. Only a reply under way is lost: the
        # network does not belong to its sender any more.
        net.first.start()
        net.first.wait_ready()
        wait_gateway(member, "gw-1")
        back = to_machine.mark()
        loss = to_machine.between(moved, back)
        assert loss.lost <= 2
        assert other.between(other_start, other.mark()).lost == 0, "another tunnel lost a packet"
    finally:
        to_machine.stop()
        other.stop()


def test_a_revoked_gateway_is_replaced_at_once(net: Net) -> None:
    lab, member = net.lab, net.member
    wait_gateway(member, "gw-1")
    member.wait_reaches(MACHINE)
    to_machine = Ping(member.namespace, MACHINE, lab.run.home / "revoked.log")
    try:
        start = to_machine.mark()
        lab.lost(lab.revoke(net.first), net.first.public_key, (member,))
        wait_gateway(member, "gw-2")
        loss = to_machine.between(start, to_machine.mark())
        assert loss.longest_gap < 0.5
        wait_routed(member)
    finally:
        to_machine.stop()
    lab.chain.send(calls.set_routes(net.second.token, []))
    wait_until(lambda: routed(member) == set(), "no network is routed any more")
    lab.chain.send(calls.set_routes(net.second.token, [NETWORK, NETWORK6]))
    wait_gateway(member, "gw-2")
    for address in (MACHINE, MACHINE6):
        member.wait_reaches(address)


def test_what_conflicts_with_the_host_is_refused_with_its_reason(net: Net) -> None:
    lab, member = net.lab, net.member
    wrong = {
        "192.168.77.0/24": "this host has the address",
        "10.77.0.0/24": "which has the addresses of the members",
        "127.5.0.0/16": "a loopback address",
        "fe80::/64": "a link-local address",
    }
    lab.chain.send(calls.set_routes(net.second.token, canonical_routes((NETWORK, NETWORK6, *wrong))))

    def refused() -> bool:
        found = networks(member)
        return all(reason in str(found.get(network, {}).get("problem")) for network, reason in wrong.items())

    # At first, the routes of the host were not read about them.
    wait_until(refused, "the networks are refused, with the reasons")
    found = networks(member)
    assert all(found[network]["node_id"] is None for network in wrong)
    status, reason = member.component("routes")
    assert status == "warning"
    assert "192.168.77.0/24 is not used: this host has the address" in reason
    lab.chain.send(calls.set_routes(net.second.token, [NETWORK, NETWORK6]))
    wait_until(lambda: member.component("routes") == ("ok", ""), "no network is refused")
    member.wait_reaches(MACHINE)


def test_a_route_of_the_host_that_comes_later_has_precedence(net: Net) -> None:
    member = net.member
    wait_gateway(member, "gw-2")
    other = Ping(member.namespace, MACHINE6, net.lab.run.home / "later.log")
    try:
        start = other.mark()
        member.namespace.run("ip", "route", "add", NETWORK, "dev", "eth0", "metric", "50")
        assert not member.reaches(MACHINE, wait=0.2)
        wait_until(lambda: gateway_of(member) is None, "the network is withdrawn", 15)
        problem = f"this host has the route {NETWORK} dev eth0"
        assert problem in networks(member)[NETWORK]["problem"]
        wait_until(lambda: routed(member) == {NETWORK6, f"blackhole {NETWORK6}"}, "its routes are removed")
        member.namespace.run("ip", "route", "del", NETWORK, "dev", "eth0")
        wait_gateway(member, "gw-2", 15)
        member.wait_reaches(MACHINE)
        assert other.between(start, other.mark()).lost == 0
    finally:
        other.stop()


def test_a_stop_removes_only_our_routes(net: Net) -> None:
    member = net.member
    wait_gateway(member, "gw-2")
    member.namespace.run("ip", "route", "add", "10.91.0.0/24", "dev", "eth0", "proto", "static")
    before = set(member.namespace.run("ip", "route").splitlines())
    ours = {row for row in before if "proto 118" in row}
    assert member.stop() == 0
    after = set(member.namespace.run("ip", "route").splitlines())
    assert after == {row for row in before - ours if f"dev {INTERFACE}" not in row}
    # After a crash, another process takes over what is left, without a moment without a route.
    member.start(ACCEPT_ROUTES="all")
    wait_gateway(member, "gw-2")
    member.wait_reaches(MACHINE)
    wait_routed(member)
    member.stop(signal.SIGKILL)
    assert routed(member) == EVERY_ROUTE
    ping = Ping(member.namespace, MACHINE, net.lab.run.home / "crash.log")
    try:
        start = ping.mark()
        member.start(ACCEPT_ROUTES="all")
        member.wait_ready()
        wait_gateway(member, "gw-2")
        assert ping.between(start, ping.mark()).lost == 0
    finally:
        ping.stop()
    member.stop(signal.SIGKILL)
    member.start(ACCEPT_ROUTES="none")
    member.wait_ready()
    wait_until(lambda: routed(member) == set(), "the routes of the earlier process are removed")
