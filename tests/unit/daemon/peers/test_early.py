"""Early removals in a node that uses networks and exits behind others."""

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.access.early import PASSED, EarlySubscription, Preconfirmed
from dstack_vpn.core.chain.events import Granted, Revoked, RoutesUpdated
from dstack_vpn.core.model import Cidr, RemovePeer
from dstack_vpn.core.paths.routes import AcceptRoutes
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.peers import exit_keeper

NET, EXIT = "10.9.0.0/24", "0.0.0.0/0"


def bench_of(network: Cidr) -> Bench:
    """Return a node that uses a network behind node 1, and that could use node 2."""
    exits = ("node-1", "node-2") if network == EXIT else ()
    bench = Bench(accept_routes=AcceptRoutes.parse("none" if exits else "all"), exit_nodes=exits)
    routes = [RoutesUpdated(token, (network,)) for token in (1, 2)]
    bench.chain.mine(Granted(0, "0xme", "node-0", derive(OWN)), grant(1), grant(2), *routes)
    return bench


def gateways(bench: Bench, network: Cidr) -> list[int]:
    peers = {} if bench.link.device is None else bench.link.device.peers
    return [token for token in (1, 2) if (p := peers.get(key(token))) and network in p.allowed_ips]


@pytest.mark.parametrize("network", [NET, EXIT])
async def test_traffic_moves_to_no_other_node_before_the_block(
    network: Cidr, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TICK", "CHECK", "RETRY"):
        monkeypatch.setattr(exit_keeper, name, 0.005)
    bench = bench_of(network)
    async with bench.running() as node:
        await eventually(lambda: gateways(bench, network) == [1])
        bench.device.applied.clear()
        bench.source.queue.put_nowait(Preconfirmed(Revoked(1), bench.chain.head.number + 1))
        await eventually(lambda: gateways(bench, network) == [])
        await node.exit_keeper.choose()
        node.members.follow_routes()
        await node.reconciler.repair()
        assert [type(change) for change in bench.device.applied] == [RemovePeer]
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: gateways(bench, network) == [2])


@pytest.mark.parametrize("network", [NET, EXIT])
async def test_the_node_has_its_traffic_again_if_the_event_does_not_come(network: Cidr) -> None:
    bench = bench_of(network)
    async with bench.running():
        await eventually(lambda: gateways(bench, network) == [1])
        bench.source.queue.put_nowait(Preconfirmed(Revoked(1), bench.chain.head.number + 1))
        await eventually(lambda: gateways(bench, network) == [])
        for _ in range(PASSED + 1):
            bench.source.tell(bench.chain.mine())
        await eventually(lambda: gateways(bench, network) == [1])


async def test_a_refusal_is_published_once_for_each_endpoint_and_reason() -> None:
    bench = bench_of(NET)
    async with bench.running() as node:
        refused = EarlySubscription("ws://a", "no such subscription")
        for outcome in (refused, refused, EarlySubscription("ws://a", None), refused):
            node.members.hinted(outcome)
        found = [e for e in node.event_log.latest() if e.event.name == "early.unavailable"]
        assert len(found) == 2
