"""A public key is visible before its transaction is mined. Another member registers it first."""

from dataclasses import astuple
from ipaddress import IPv4Network

import pytest
from tests.scripted import ScriptedChain, grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl, NodeIdentity, Reason, own_problem
from dstack_vpn.core.chain.events import EndpointUpdated, Granted, Revoked
from dstack_vpn.core.model import Endpoint, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.wiring.view import NodeView

MINE = derive(OWN)
C, D = 3, 4


def registered(token: int, public: PublicKey) -> Granted:
    return Granted(token, f"0xowner{token}", f"node-{token}", public)


async def test_a_node_whose_key_another_has_registered_first_runs_as_itself() -> None:
    """Both tokens have the key, c's since an earlier block."""
    bench = Bench(own_node_id=f"node-{D}")
    bench.chain.mine(grant(1), registered(C, MINE))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1})
        await eventually(lambda: "our key is registered for node node-3" in bench.component("membership"))
        assert node.tunnel.own_addresses == frozenset(), "no address of c's"
        bench.source.tell(bench.chain.mine(registered(D, MINE)))
        await eventually(lambda: bench.component("membership") == "ok: ")
        assert node.tunnel.members.own_node is not None
        assert node.tunnel.members.own_node.token_id == D
        await eventually(lambda: len(node.tunnel.own_addresses) == 2)
        # The sessions are renewed with our first address: every peer is removed and set again.
        await eventually(lambda: RemovePeer(key(1)) in bench.device.applied)
        await eventually(lambda: bench.tokens() == {1})
        set_keys = {c.public_key for c in bench.device.applied if isinstance(c, SetPeer)}
        assert set_keys == {key(1)}, "the copy of our key is no peer of ours"


async def test_a_node_stays_itself_when_its_key_goes_to_another() -> None:
    """Its own token is revoked, and the copy of its key would now be the only claim."""
    bench = Bench(own_node_id=f"node-{D}")
    bench.chain.mine(grant(1), registered(D, MINE))
    bench.chain.mine(registered(C, MINE))
    async with bench.running() as node:
        await eventually(lambda: node.tunnel.members.own_node is not None)
        before = node.tunnel.own_addresses
        assert before
        bench.source.tell(bench.chain.mine(Revoked(D)))
        await eventually(lambda: "another member has registered our key" in bench.component("membership"))
        assert node.tunnel.own_addresses == frozenset()
        assert bench.tokens() == {1}, "and a key of our own is no peer of ours"


@pytest.mark.parametrize("first", [1, C])
async def test_a_copied_key_keeps_its_owner_on_the_network(first: int) -> None:
    """The copy, before or after its owner's claim, only adds the copying token's addresses."""
    bench = Bench()
    claims = {1: grant(1), C: registered(C, key(1))}
    bench.chain.mine(claims.pop(first))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {first})
        bench.source.tell(bench.chain.mine(*claims.values(), grant(2)))
        await eventually(lambda: bench.tokens() == {1, 2, C})
        allowed = node.tunnel.members.addresses.allowed_ips
        assert bench.device.peers[key(1)].allowed_ips == allowed(1) | allowed(C)
        assert all(node.tunnel.members.access.decide(token, 0).granted for token in (1, C))
        assert NodeView(node, None, None, {}).decide("node-1")["peer"]
        bench.source.tell(bench.chain.mine(Revoked(C)))
        await eventually(lambda: bench.tokens() == {1, 2})
        assert bench.device.peers[key(1)].allowed_ips == allowed(1)


async def test_a_copy_with_a_false_endpoint_delays_the_owner_only() -> None:
    false, true = Endpoint("192.0.2.66", 51820), Endpoint("192.0.2.1", 51820)
    bench = Bench()
    bench.chain.mine(registered(C, key(1)), EndpointUpdated(C, PeerEndpoint(false)))
    bench.chain.mine(grant(1), EndpointUpdated(1, PeerEndpoint(true)))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1, C})
        assert bench.device.peers[key(1)].endpoint == SocketAddress(*astuple(false))
        node.tunnel.members.silent([key(1)])
        await eventually(lambda: bench.device.peers[key(1)].endpoint == SocketAddress(*astuple(true)))


def access(identity: NodeIdentity, *events: Granted) -> AccessControl:
    chain = ScriptedChain()
    for event in events:
        chain.mine(event)
    plan = AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(1, "0x" + "1" * 40))
    return AccessControl(chain.registry(), plan, MINE, identity=identity)


def test_the_account_identifies_the_token_if_no_node_id_is_set() -> None:
    both = (registered(C, MINE), registered(D, MINE))
    for token in (C, D):
        own = access(NodeIdentity(account=f"0xowner{token}"), *both)
        decision = own.decide(MINE, 0)
        assert decision.reason is Reason.OWN_KEY
        assert decision.node is not None
        assert decision.node.token_id == token
        assert own_problem(own, 0) is None
    copied = access(NodeIdentity(account="0xowner4"), registered(C, MINE))
    assert copied.decide(MINE, 0).reason is Reason.COPIED_KEY
    assert (own_problem(copied, 0) or "").startswith(
        "our account is 0xowner4, but our key is registered for node node-3 (token 3 of 0xowner3)"
    )


def test_a_node_that_knows_its_key_alone_says_when_two_tokens_have_it() -> None:
    alone = NodeIdentity()
    assert own_problem(access(alone, registered(D, MINE)), 0) is None
    problem = own_problem(access(alone, registered(C, MINE), registered(D, MINE)), 0)
    assert problem is not None
    assert "node node-3 (token 3 of 0xowner3) and node node-4 (token 4 of 0xowner4)" in problem
    assert "set NODE_ID" in problem
