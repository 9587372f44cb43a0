"""The members of the network, and the node's own token."""

from tests.scripted import grant
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.chain.events import ExpiryUpdated, Granted
from dstack_vpn.core.wireguard.x25519 import derive


async def test_nobody_takes_our_address_by_claiming_our_key(bench: Bench) -> None:
    bench.chain.mine(Granted(3, "0xme", "node-0", derive(OWN)))
    async with bench.running() as node:
        await eventually(lambda: node.tunnel.members.own_node)
        bench.source.tell(bench.chain.mine(Granted(9, "0xthief", "thief", derive(OWN))))
        await eventually(lambda: 9 in node.tunnel.members.follower.registry.nodes)
        own = node.tunnel.members.own_node
        assert own is not None
        assert own.token_id == 3


async def test_each_claim_of_a_key_is_confirmed_by_itself(bench: Bench) -> None:
    bench.confirmations = 2
    async with bench.running() as node:
        await eventually(lambda: node.members.synced)
        bench.source.tell(bench.chain.mine(grant(1)))
        bench.source.tell(bench.chain.mine(grant(2, 1)))
        for _ in range(3):
            bench.source.tell(bench.chain.mine())
        await eventually(lambda: bench.tokens() == {1, 2})


async def test_our_own_expiry_shows_in_health(bench: Bench) -> None:
    async with bench.running() as node:
        await eventually(node.tunnel.up.is_set)
        end = int(node.tunnel.clock.now()) + 1
        own = Granted(0, "0xme", "node-0", derive(OWN))
        bench.source.tell(bench.chain.mine(own, ExpiryUpdated(0, end)))
        await eventually(lambda: bench.component("membership") == "ok: ")
        await eventually(lambda: "expired" in bench.component("membership"))
