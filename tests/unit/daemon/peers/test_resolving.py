"""Host names of peers whose tokens come and go."""

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.events import Revoked
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Endpoint
from dstack_vpn.daemon.peers import endpoints


async def test_a_name_of_a_token_that_has_gone_stops_nothing(bench: Bench) -> None:
    bench.policy = PeerPolicy(template="{node_id}.vpn.internal:51820")
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1})
        node.tunnel.members.follower.bootstrapped(Registry(), bench.chain.head)
        node.tunnel.members.resolved([Endpoint("node-1.vpn.internal", 51820)])


async def test_a_name_in_use_is_resolved_for_as_long_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "UNUSED", 0.0)
    monkeypatch.setattr(endpoints, "REFRESH", 0.0)
    bench.policy = PeerPolicy(template="{node_id}.vpn.internal:51820")
    bench.resolver.names["node-1.vpn.internal"] = "192.0.2.1"
    bench.chain.mine(grant(1))

    def host() -> str | None:
        peer = bench.device.peers.get(key(1))
        return peer.endpoint.host if peer and peer.endpoint else None

    async with bench.running() as node:
        await eventually(lambda: bench.link.device and host() == "192.0.2.1")
        bench.resolver.names["node-1.vpn.internal"] = "192.0.2.2"
        await eventually(lambda: host() == "192.0.2.2")
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: not node.resolver.book.in_use)
