"""A node's public key is seen before its transaction is mined: another member can register it first."""

from ipaddress import IPv4Network

from tests.scripted import ScriptedChain, grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl, NodeIdentity, Reason, own_problem
from dstack_vpn.core.chain.events import Granted, KeyUpdated, Revoked
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.x25519 import derive

MINE = derive(OWN)
C, D = 3, 4


def registered(token: int, public: PublicKey) -> Granted:
    return Granted(token, f"0xowner{token}", f"node-{token}", public)


async def test_a_node_whose_key_another_has_registered_first_does_not_run_as_that_one() -> None:
    """The deployed contract: both tokens have the key, c's since an earlier block."""
    bench = Bench(own_node_id=f"node-{D}")
    bench.chain.mine(grant(1), registered(C, MINE))
    bench.chain.mine(registered(D, MINE))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1})
        await eventually(lambda: "our key is registered for node node-3" in bench.component("membership"))
        assert node.tunnel.members.own_node is None
        assert node.tunnel.own_addresses == frozenset(), "no address of c's"
        assert not bench.health().healthy
        # Another key for our own token mends it; the copied one is c's to keep.
        node.tunnel.members.own_key = key(77)
        bench.source.tell(bench.chain.mine(KeyUpdated(D, key(77))))
        await eventually(lambda: node.tunnel.members.own_node is not None)
        assert bench.component("membership") == "ok: "
        await eventually(lambda: len(node.tunnel.own_addresses) == 2)


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


async def test_a_member_keeps_its_key_and_addresses_when_another_registers_the_same_key() -> None:
    bench = Bench()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1})
        before = bench.device.peers[key(1)].allowed_ips
        bench.source.tell(bench.chain.mine(registered(C, key(1)), grant(2)))
        await eventually(lambda: 2 in bench.tokens())
        assert bench.device.peers[key(1)].allowed_ips == before
        refused = node.tunnel.members.access.decide(C, 0)
        assert (refused.reason, refused.detail) == (Reason.DUPLICATE_KEY, "token 1 had it first")


def access(identity: NodeIdentity, *events: Granted) -> AccessControl:
    chain = ScriptedChain()
    for event in events:
        chain.mine(event)
    plan = AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(1, "0x" + "1" * 40))
    return AccessControl(chain.registry(), plan, MINE, identity=identity)


def test_the_account_knows_its_token_where_no_node_id_is_set() -> None:
    both = (registered(C, MINE), registered(D, MINE))
    of_c, of_d = NodeIdentity(account="0xowner3"), NodeIdentity(account="0xowner4")
    assert access(of_c, *both).decide(MINE, 0).reason is Reason.OWN_KEY
    copied = access(of_d, *both)
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
