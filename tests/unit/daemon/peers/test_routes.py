"""The networks behind other nodes, from the registry to the device and the host's routes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.chain.events import Granted, Revoked, RoutesUpdated
from dstack_vpn.core.observe.event import Scalar
from dstack_vpn.core.ownership import AddressFact, RouteFact
from dstack_vpn.core.paths.routes import AcceptRoutes
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.daemon.device import tunnel
from dstack_vpn.daemon.observe.roles import RoleWatch
from dstack_vpn.ports import HostRoutes

NET, OTHER, EXIT = "10.9.0.0/24", "10.20.5.0/24", "0.0.0.0/0"


@pytest.fixture
def bench() -> Bench:
    bench = Bench(accept_routes=AcceptRoutes.parse("all"))
    bench.chain.mine(Granted(0, "0xme", "node-0", derive(OWN)), grant(1), grant(2), grant(3))
    return bench


def gateway(bench: Bench, network: str) -> int | None:
    """Return the token whose peer has a network, and check that no other one has it."""
    peers = {} if bench.link.device is None else bench.link.device.peers
    found = [token for token in (1, 2, 3) if (p := peers.get(key(token))) and network in p.allowed_ips]
    assert len(found) <= 1
    return found[0] if found else None


def routed(bench: Bench) -> set[str] | None:
    """Return the networks that the host routes into the tunnel."""
    settings = bench.link.settings
    return None if settings is None or settings.networks is None else set(settings.networks)


def events(node: Daemon, name: str) -> list[Mapping[str, Scalar]]:
    return [each.event.shown() for each in node.event_log.latest() if each.event.name == name]


def stand(monkeypatch: pytest.MonkeyPatch, silent: set[PublicKey]) -> None:
    monkeypatch.setattr(
        RoleWatch, "standing", lambda _, k: Standing.SILENT if k in silent else Standing.ALIVE
    )


async def test_a_network_is_reached_and_left_with_the_registry(bench: Bench) -> None:
    bench.chain.mine(RoutesUpdated(1, (NET, EXIT)))
    async with bench.running() as node:
        await eventually(lambda: routed(bench) == {NET} and gateway(bench, NET) == 1)
        assert gateway(bench, EXIT) is None, "only EXIT_NODE uses a default route"
        bench.source.tell(bench.chain.mine(RoutesUpdated(2, (OTHER,))))
        await eventually(lambda: routed(bench) == {NET, OTHER} and gateway(bench, OTHER) == 2)
        bench.source.tell(bench.chain.mine(RoutesUpdated(1, ())))
        await eventually(lambda: routed(bench) == {OTHER} and gateway(bench, NET) is None)
        assert [each["network"] for each in node.members.routes.describe()] == [OTHER]
        bench.source.tell(bench.chain.mine(Revoked(2)))
        await eventually(lambda: routed(bench) == set())
        assert bench.component("routes") == "ok: "


async def test_a_revoked_gateway_is_replaced_in_the_same_step(bench: Bench) -> None:
    bench.chain.mine(RoutesUpdated(1, (NET,)), RoutesUpdated(3, (NET,)), RoutesUpdated(2, (NET,)))
    async with bench.running():
        await eventually(lambda: gateway(bench, NET) == 1)
        bench.device.applied.clear()
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: gateway(bench, NET) == 2)
        assert [type(change).__name__ for change in bench.device.applied] == ["RemovePeer", "SetPeer"]
        assert routed(bench) == {NET}


async def test_a_silent_gateway_is_replaced_and_returns(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent: set[PublicKey] = set()
    stand(monkeypatch, silent)
    monkeypatch.setattr("dstack_vpn.core.access.gateways.RETURN", 0.3)
    bench.chain.mine(RoutesUpdated(1, (NET,)), RoutesUpdated(2, (NET,)), RoutesUpdated(3, (OTHER,)))
    async with bench.running() as node:
        await eventually(lambda: gateway(bench, NET) == 1)
        silent |= {key(1), key(3)}
        await eventually(lambda: gateway(bench, NET) == 2)
        assert gateway(bench, OTHER) == 3, "it has no other one"
        silent.clear()
        await eventually(lambda: gateway(bench, NET) == 1)
        moved = [each for each in events(node, "network.reached") if each["network"] == NET]
        assert [(each["node"], each["former"]) for each in moved] == [
            ("node-1", None),
            ("node-2", "node-1"),
            ("node-1", "node-2"),
        ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda b: HostRoutes(7, (RouteFact("10.9.0.0/16", index=2, device="eth0"),), ()),
            "this host has the route 10.9.0.0/16 dev eth0",
        ),
        (
            lambda b: HostRoutes(7, (), (AddressFact("10.9.0.5/24", 2, "eth0"),)),
            "this host has the address 10.9.0.5/24 on eth0",
        ),
    ],
)
async def test_a_route_of_the_host_withdraws_a_network(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Bench], HostRoutes],
    problem: str,
) -> None:
    monkeypatch.setattr(tunnel, "COMPARE", replace(tunnel.COMPARE, least=0.05))
    monkeypatch.setattr(tunnel, "CHECK", 0.05)
    bench.chain.mine(RoutesUpdated(1, (NET, OTHER)))
    async with bench.running() as node:
        await eventually(lambda: routed(bench) == {NET, OTHER})
        before, bench.link.host = bench.link.host, change(bench)
        await eventually(lambda: routed(bench) == {OTHER} and gateway(bench, NET) is None)
        assert bench.component("routes") == f"warning: {NET} is not used: {problem}"
        assert [each["problem"] for each in events(node, "network.refused")] == [problem]
        bench.link.host = before
        await eventually(lambda: routed(bench) == {NET, OTHER} and gateway(bench, NET) == 1)


async def test_a_machine_that_the_node_needs_is_not_sought_in_the_tunnel(bench: Bench) -> None:
    bench.machines = [("the RPC host rpc.example", "10.20.5.7")]
    bench.chain.mine(RoutesUpdated(1, (NET, OTHER)))
    async with bench.running() as node:
        await eventually(lambda: routed(bench) == {NET})
        assert "the RPC host rpc.example (10.20.5.7)" in node.members.routes.unused[OTHER]


async def test_only_accepted_networks_are_used(bench: Bench) -> None:
    bench.accept_routes = AcceptRoutes.parse("10.20.0.0/16")
    bench.chain.mine(RoutesUpdated(1, (NET, OTHER)))
    async with bench.running() as node:
        await eventually(lambda: routed(bench) == {OTHER})
        assert list(node.members.routes.unused) == []
    bench.accept_routes = AcceptRoutes.parse("none")
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1, 2, 3})
        await asyncio.sleep(0.05)
        assert not routed(bench)
        assert gateway(bench, OTHER) is None
        assert node.members.routes.report() is None


async def test_the_gateway_of_an_earlier_process_stays(bench: Bench) -> None:
    bench.keep_interface = True
    bench.chain.mine(RoutesUpdated(1, (NET,)), RoutesUpdated(2, (NET,)))
    async with bench.running() as node:
        await eventually(lambda: gateway(bench, NET) == 1)
        node.members.routes.choice.used[NET] = 2
        node.members.follow_routes()
        await eventually(lambda: gateway(bench, NET) == 2)
    holders = set[int | None]()
    bench.device.before = lambda _: holders.add(gateway(bench, NET))
    async with bench.running() as node:
        await eventually(lambda: node.reconciler.filled.is_set() and routed(bench) == {NET})
        await asyncio.sleep(0.05)
        assert gateway(bench, NET) == 2
        assert holders <= {2}
