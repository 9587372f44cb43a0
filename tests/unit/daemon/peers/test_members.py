"""The members of the network, and the node's own token."""

from tests.scripted import grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.chain.events import ExpiryUpdated, Granted, Revoked
from dstack_vpn.core.model import SetPeer
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


async def test_a_network_moves_to_another_peer_in_one_step(bench: Bench) -> None:
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1, 2})
        device = bench.device
        node.members.move_networks({"10.9.0.0/24": 1, "0.0.0.0/0": 1})
        await eventually(lambda: "0.0.0.0/0" in device.peers[key(1)].allowed_ips)
        device.applied.clear()
        node.members.move_networks({"10.9.0.0/24": 2})
        await eventually(lambda: "10.9.0.0/24" in device.peers[key(2)].allowed_ips)
        assert device.applied == [SetPeer(key(2), allowed_ips=frozenset({"10.9.0.0/24"}))]
        assert "0.0.0.0/0" in device.peers[key(1)].allowed_ips
        # It goes with its gateway, and comes back with it.
        bench.source.tell(bench.chain.mine(Revoked(2)))
        await eventually(lambda: key(2) not in device.peers)
        node.members.move_networks({"0.0.0.0/0": None, "10.9.0.0/24": 1})
        await eventually(lambda: "10.9.0.0/24" in device.peers[key(1)].allowed_ips)
        assert "0.0.0.0/0" not in device.peers[key(1)].allowed_ips
