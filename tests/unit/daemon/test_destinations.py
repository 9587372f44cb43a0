"""An endpoint within the VPN's own prefixes never reaches the device, from any source."""

import asyncio
from ipaddress import IPv4Network

import pytest
from tests.scripted import IDENTITY, grant, key
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.events import EndpointUpdated
from dstack_vpn.core.model import Peer, SetPeer, SocketAddress
from dstack_vpn.core.observe.events import FieldRefused
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.config_file import ConfPeer, WgConfig, render

PLAN = AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(31337, IDENTITY.contract))
INSIDE = f"{PLAN.ipv4_of(1)}:51820"
ALLOWED = Destinations(PLAN.networks)


def endpoints_sent(bench: Bench) -> set[SocketAddress]:
    changes = (c for c in bench.device.applied if isinstance(c, SetPeer))
    return {c.endpoint for c in changes if c.endpoint is not None}


@pytest.mark.parametrize("text", [INSIDE, f"[{PLAN.ipv6_of(1)}]:51820", f"192.0.2.1:1,tcp://{INSIDE}"])
async def test_a_members_endpoint_inside_the_vpn_is_refused_and_named(bench: Bench, text: str) -> None:
    bench.policy = PeerPolicy(destinations=ALLOWED)
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1})
        bench.source.tell(bench.chain.mine(EndpointUpdated(1, PeerEndpoint.parse(text)), grant(2)))
        await eventually(lambda: bench.tokens() == {1, 2})
        assert endpoints_sent(bench) == set()
        assert not bench.relays.made
        refused = [e.event for e in node.event_log.latest() if isinstance(e.event, FieldRefused)]
        assert [(h.token, h.field) for h in refused] == [(1, "endpoint")]


async def test_the_token_uri_the_template_and_the_operators_own_are_judged_as_well(bench: Bench) -> None:
    own = {"node-1": PeerEndpoint.parse(INSIDE, local=True)}
    bench.policy = PeerPolicy(own, "10.77.0.{token_id}:51820", destinations=ALLOWED)
    bench.chain.uris[2] = PeerEndpoint.parse(INSIDE)
    bench.chain.mine(grant(1), grant(2), grant(3))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1, 2, 3})
        assert endpoints_sent(bench) == set()


async def test_a_pinned_backup_and_a_remembered_place_are_judged_as_well(bench: Bench) -> None:
    bench.policy = PeerPolicy(destinations=ALLOWED)
    place = SocketAddress("10.77.0.2", 51820)
    bench.memory.saved = {key(1): place}
    peer = Peer(key(1), PLAN.allowed_ips(1), place)
    bench.archive.pin = render(WgConfig(None, 51820, peers=(ConfPeer(peer),)))
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: node.members.membership.pinned and bench.tokens() == {1})
        await asyncio.sleep(0)
        assert endpoints_sent(bench) == set()
