"""A node with a quorum of endpoints, one of which forges, hides or withholds data."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.anvil import key_of
from tests.fake_chain import FakeChain, FakeServer, registry, serve
from tests.fake_chain.faults import Fault
from tests.integration.conftest import MakeRig
from tests.integration.pairs import members
from tests.integration.support import Rig, eventually

from dstack_vpn.adapters.chain import pool
from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.access_registry import AccessRegistry
from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.chain import agreement
from dstack_vpn.core.chain.contract import CONTRACT
from dstack_vpn.core.chain.fork_search import ForkSearch
from dstack_vpn.core.model import RemovePeer, SetPeer
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.chain import loop, progress, quorum_checker
from dstack_vpn.daemon.chain.verifiers import LOOK
from dstack_vpn.wiring.view import NodeView

AUDIT = 0.2
REPEATS = 23


@dataclass
class Trio:
    """Three endpoints of one chain. A test can add faults to each."""

    chain: FakeChain
    servers: list[FakeServer]

    def urls(self, scheme: str = "ws") -> list[str]:
        return [getattr(server, scheme) for server in self.servers]

    @property
    def liar(self) -> FakeServer:
        """Return the preferred endpoint, which the node follows first."""
        return self.servers[0]


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    async with serve() as first, serve(first.chain) as second, serve(first.chain) as third:
        servers = [first, second, third]

        async def announce(kind: str, items: Sequence[dict[str, Any]]) -> None:
            for server in servers:
                await server._announce(kind, items)

        first.chain.announce = announce
        yield Trio(first.chain, servers)


@asynccontextmanager
async def running(make_rig: MakeRig, trio: Trio, count: int = 3, **options: Any) -> AsyncIterator[Rig]:
    options = {"resync_interval": AUDIT, "environment": {"RPC_QUORUM": "2"}, **options}
    async with make_rig(trio.urls()[:count], trio.chain.contract, **options).running() as rig:
        yield rig


def mint(chain: FakeChain, number: int) -> registry.Transaction:
    return registry.mint(chain.accounts[1], f"node-{number}", str(key_of(number)))


def quarantined(rig: Rig) -> Mapping[str, str]:
    facts = rig.node.reporter.collect().quorum
    assert facts is not None
    return facts.quarantined


def ever(rig: Rig) -> set[PublicKey]:
    """Return all public keys that the device ever had as peers."""
    return {change.public_key for change in rig.device.applied if isinstance(change, SetPeer)}


async def settled(rig: Rig, chain: FakeChain, what: str) -> None:
    await rig.settle(members(chain), what)


async def test_what_all_show_is_granted_and_revoked_as_ever(trio: Trio, make_rig: MakeRig) -> None:
    await trio.chain.mint(1)
    async with running(make_rig, trio, resync_interval=3600) as rig:
        await settled(rig, trio.chain, "the initial peers")
        await trio.chain.mint(2)
        await settled(rig, trio.chain, "a grant")
        await trio.chain.mine(registry.update_key(2, str(key_of(12))))
        await settled(rig, trio.chain, "another key")
        await trio.chain.revoke(1)
        await settled(rig, trio.chain, "a revocation")
        assert rig.keys == {key_of(12)}
        await eventually(lambda: rig.component("quorum") == "ok: ", "the quorum's component is ok")


async def test_a_grant_costs_two_calls_of_each_endpoint_and_a_revocation_none(
    trio: Trio, make_rig: MakeRig
) -> None:
    await trio.chain.mint(1)
    async with running(make_rig, trio, resync_interval=3600) as rig:
        await settled(rig, trio.chain, "the initial peers")

        def agreeing() -> int:
            facts = rig.node.reporter.collect().quorum
            return 0 if facts is None else facts.agreeing

        await eventually(lambda: agreeing() == 3, "all endpoints agree in a resync")
        await eventually(lambda: rig.node.chain.state.resyncs, "the resync has ended")
        rig.asked.clear()
        await trio.chain.mint(2)
        await settled(rig, trio.chain, "a grant")
        # One of the calls is needed without a quorum, too: a mint's log is incomplete.
        await eventually(lambda: len(rig.asked) >= 7, "calls to all endpoints")
        asked = Counter(method for method, _ in rig.asked)
        assert asked == {"eth_getBlockByNumber": 3, "eth_call": 3 + 1}
        await trio.chain.revoke(1)
        await settled(rig, trio.chain, "a revocation")
        assert len(rig.asked) == 7


@pytest.mark.parametrize("logs", [True, False])
async def test_a_forged_grant_adds_no_peer_and_its_forger_is_found(
    trio: Trio, make_rig: MakeRig, *, logs: bool
) -> None:
    """The followed endpoint forges logs and calls consistently, with an honest block hash."""
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.liar.forge(mint(chain, 66), logs=logs)
        await eventually(lambda: trio.liar.ws in quarantined(rig), "the endpoint is quarantined")
        assert "quarantine" in rig.component("quorum")
        _, metrics = (await NodeView(rig.node, None, None, {}).metrics())()
        assert f'dstack_vpn_rpc_quarantined{{endpoint="{trio.liar.ws}"}} 1.0' in metrics.decode()
        for name in ("rpc_contradictions", "rpc_lies"):
            assert f'dstack_vpn_{name}_total{{endpoint="{trio.liar.ws}"}} 1.0' in metrics.decode()
        await eventually(lambda: rig.node.chain.state.endpoint == trio.servers[1].ws, "another is followed")
        await chain.mint(2)
        await settled(rig, chain, "an honest grant")
        assert key_of(66) not in ever(rig), "not for a moment"
        assert rig.decide("node-66").reason is Reason.UNKNOWN


async def test_with_two_endpoints_a_forged_grant_adds_no_peer_either(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, 2) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.liar.forge(mint(chain, 66))
        await eventually(lambda: "contradict each other" in rig.component("quorum"), "both are named")
        for server in trio.servers[:2]:
            assert server.ws in rig.component("quorum")
        assert rig.decide("node-66").reason is Reason.NO_QUORUM
        assert rig.peers == members(chain)
        assert key_of(66) not in ever(rig)


async def test_a_forged_claim_to_a_members_key_keeps_it_not_out(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, 2) as rig:
        await settled(rig, chain, "the initial peers")
        thief = registry.mint(chain.accounts[1], "thief", str(key_of(1)))
        await trio.liar.forge(thief, lambda tokens, *_: (older(tokens), []), logs=False)
        await eventually(lambda: rig.decide("thief").reason is not Reason.UNKNOWN, "the forged token is read")
        await eventually(lambda: rig.node.chain.state.resyncs > 2, "resyncs")
        assert rig.peers == members(chain)


def older(tokens: registry.Tokens) -> dict[int, registry.Token]:
    return {id_: replace(t, key_block=0) if t.node_id == "thief" else t for id_, t in tokens.items()}


@pytest.mark.parametrize("count", [2, 3])
async def test_a_hidden_revocation_comes_with_the_next_audit(
    trio: Trio, make_rig: MakeRig, count: int
) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, count) as rig:
        await settled(rig, chain, "the initial peers")
        before = dict(chain.head.tokens)
        trio.liar.faults.lies.state = lambda tokens, number: before
        trio.liar.faults.lies.hides = lambda log: True
        await chain.revoke(1)
        await settled(rig, chain, "the revocation by another endpoint")
        assert rig.keys == {key_of(2)}
        if count == 3:
            await eventually(lambda: trio.liar.ws in quarantined(rig), "the endpoint is quarantined")


def keep_revision(server: FakeServer) -> None:
    """Report the present revision for all later blocks, and hide all later logs."""
    server.faults.lies.revision_of = dict(server.chain.head.tokens)
    server.faults.lies.hides = lambda log: True


async def by_revision(rig: Rig) -> None:
    """Wait until the resyncs of all endpoints are by their revisions."""
    state = rig.node.chain.state
    begun = state.resyncs
    await eventually(lambda: state.resyncs > begun + 4, "resyncs")


@pytest.fixture(params=["number", "root"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the contract one without a revision, or not, and full readings more frequent."""
    if request.param == "root":
        monkeypatch.setattr(AccessRegistry, "revision_call", None)
    monkeypatch.setattr(agreement, "REPEATS", REPEATS)
    return str(request.param)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("followed", [True, False])
async def test_a_revision_that_never_changes_hides_no_revocation_from_a_quorum(
    trio: Trio, make_rig: MakeRig, count: int, followed: bool
) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, count) as rig:
        await settled(rig, chain, "the initial peers")
        await by_revision(rig)
        keep_revision(trio.servers[0])
        if not followed:  # the followed one hides the log, and its state is honest
            trio.servers[0].faults.lies.revision_of = None
            keep_revision(trio.servers[1])
        state = rig.node.chain.state
        await chain.revoke(1)
        begun = state.resyncs
        await settled(rig, chain, "the revocation by another endpoint")
        assert rig.keys == {key_of(2)}
        assert state.resyncs <= begun + 2, "the resync that was under way, and the next one"


@pytest.mark.usefixtures("kind")
async def test_every_endpoint_of_a_quorum_is_read_again_after_its_repetitions(
    trio: Trio, make_rig: MakeRig
) -> None:
    await trio.chain.mint(1)
    async with running(make_rig, trio, 2, resync_interval=0.05) as rig:
        await settled(rig, trio.chain, "the initial peers")
        await by_revision(rig)
        state, page = rig.node.chain.state, "0x" + signatures.GET_NODES.hex()
        begun, ended = len(rig.asked), state.resyncs + 2 * (REPEATS + 1)
        await eventually(lambda: state.resyncs >= ended, "two times 24 resyncs")
        calls = [p[0]["data"][:10] for method, p in rig.asked[begun:] if method == "eth_call"]
        assert 3 <= calls.count(page) <= 5, "each of both endpoints twice, or nearly"


@pytest.mark.usefixtures("kind")
async def test_without_a_quorum_a_revision_that_never_changes_hides_a_revocation_until_a_full_reading(
    trio: Trio, make_rig: MakeRig
) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, 1, environment={}) as rig:
        await settled(rig, chain, "the initial peers")
        await by_revision(rig)
        keep_revision(trio.liar)
        state = rig.node.chain.state
        await chain.revoke(1)
        begun = state.resyncs
        await by_revision(rig)
        assert key_of(1) in rig.keys, "the revision hides it"
        await settled(rig, chain, "the revocation by the next full reading")
        assert rig.keys == {key_of(2)}
        assert state.resyncs <= begun + REPEATS + 2


@pytest.mark.usefixtures("kind")
async def test_a_revision_that_never_changes_counts_for_its_own_endpoint_only(
    trio: Trio, make_rig: MakeRig
) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, 2, environment={}) as rig:
        await settled(rig, chain, "the initial peers")
        await by_revision(rig)
        before, state = dict(chain.head.tokens), rig.node.chain.state
        keep_revision(trio.liar)
        trio.liar.faults.lies.state = lambda tokens, number: before
        await chain.revoke(1)
        await chain.mine()
        await by_revision(rig)
        assert rig.keys == {key_of(1), key_of(2)}, "the only endpoint that is queried hides it"
        trio.liar.faults.by_method["*"] = Fault(error={"code": -32000, "message": "overloaded"})
        await eventually(lambda: state.endpoint == trio.servers[1].ws, "the other endpoint is followed")
        begun = state.resyncs
        await settled(rig, chain, "the revocation by the other endpoint")
        assert rig.keys == {key_of(2)}
        assert state.resyncs <= begun + 2


async def test_a_connection_that_breaks_during_a_resync_delays_no_revocation_by_an_interval(
    trio: Trio, make_rig: MakeRig
) -> None:
    chain, interval = trio.chain, 6.0
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, 2, resync_interval=interval) as rig:
        await settled(rig, chain, "the initial peers")
        state = rig.node.chain.state
        begun = state.resyncs
        await eventually(lambda: state.resyncs > begun, "a resync")
        before = chain.head.tokens[1]
        trio.liar.faults.lies.state = lambda tokens, number: {**tokens, 1: before}
        trio.liar.faults.lies.hides = lambda log: True
        trio.servers[1].faults.by_method["eth_call"] = Fault(status=503, times=1)
        await chain.revoke(1)
        began = asyncio.get_running_loop().time()
        await settled(rig, chain, "the revocation by the other endpoint")
        assert rig.keys == {key_of(2)}
        assert "eth_call" not in trio.servers[1].faults.by_method, "its connection broke"
        assert asyncio.get_running_loop().time() - began < 1.6 * interval


@pytest.mark.parametrize("count", [2, 3])
async def test_an_endpoint_that_stands_still_hides_no_revocation(
    trio: Trio, make_rig: MakeRig, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "BOUND", 3.0)
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, count) as rig:
        await settled(rig, chain, "the initial peers")
        trio.liar.faults.lies.stuck_at = chain.head.number
        await chain.revoke(1)
        await settled(rig, chain, "the revocation by another endpoint")
        await eventually(
            lambda: rig.node.chain.state.endpoint not in {trio.liar.ws, None}, "another endpoint"
        )
        await chain.mint(3)
        await eventually(lambda: rig.tip == chain.head.number, "the newest block")
        assert not quarantined(rig), "one that is behind contradicts nobody"


def hide(trio: Trio) -> None:
    """Freeze the state in the followed endpoint's calls, and hide all later logs."""
    before = dict(trio.chain.head.tokens)
    trio.liar.faults.lies.state = lambda tokens, number: before
    trio.liar.faults.lies.hides = lambda log: True


async def test_an_endpoint_that_answers_no_audit_hides_no_revocation_and_is_left(
    trio: Trio, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The followed endpoint announces blocks, but its replies to a resync stall."""
    monkeypatch.setattr(quorum_checker, "RESYNC_DEADLINE", 4.0)
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        hide(trio)
        trio.liar.faults.by_method["eth_call"] = Fault(stall=True)
        await chain.revoke(1)
        await settled(rig, chain, "the revocation by another endpoint")
        assert rig.node.chain.state.endpoint == trio.liar.ws, "nobody waited for its deadline"
        await eventually(lambda: rig.node.chain.state.endpoint == trio.servers[1].ws, "another endpoint")
        assert not quarantined(rig), "nobody was seen to lie"


async def test_an_endpoint_that_never_lets_a_walk_end_hides_no_revocation_and_is_left(
    trio: Trio, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It announces every second head and no logs. The node requests the logs; replies stall."""
    monkeypatch.setattr(progress, "BOUND", 3.0)
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        trio.liar.faults.silent = trio.liar.faults.mute_logs = True
        trio.liar.faults.by_method["eth_getLogs"] = Fault(stall=True)
        trio.liar.faults.by_method["eth_call"] = Fault(stall=True)
        await chain.revoke(1)
        await chain.mine()
        await trio.liar.push("newHeads", chain.head.header())
        await eventually(lambda: rig.node.chain.state.follower.walking, "the walk has begun")
        await settled(rig, chain, "the revocation by another endpoint")
        assert rig.node.chain.state.follower.walking, "the walk has not ended"
        await eventually(lambda: rig.node.chain.state.endpoint == trio.servers[1].ws, "another endpoint")
        await eventually(lambda: rig.tip == chain.head.number, "the newest block")


async def test_an_endpoint_that_stalls_calls_holds_up_no_grant(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, resync_interval=3600) as rig:
        await settled(rig, chain, "the initial peers")
        trio.liar.faults.by_method["eth_call"] = Fault(stall=True)
        await chain.mint(2)
        await settled(rig, chain, "the grant by two other endpoints")
        assert rig.node.chain.state.endpoint == trio.liar.ws


async def test_a_change_does_not_wait_for_replies_about_the_state_before_it(
    trio: Trio, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quorum_checker, "DEADLINE", 3600.0)
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, resync_interval=3600) as rig:
        await settled(rig, chain, "the initial peers")
        await eventually(lambda: rig.node.chain.state.resyncs, "no resync is under way")
        for server in trio.servers[1:]:
            server.faults.by_method["eth_call"] = Fault(stall=True, times=1)
        await chain.mint(2)
        await eventually(lambda: all(x.faults.stalled.is_set() for x in trio.servers[1:]), "both stall")
        await chain.mine(registry.update_key(2, str(key_of(12))))
        await settled(rig, chain, "the new key, which both have confirmed")


async def test_endpoints_whose_sessions_do_not_begin_hide_no_revocation(
    trio: Trio, make_rig: MakeRig
) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        for server in trio.servers[:2]:
            server.faults.by_method["eth_getBlockByNumber"] = Fault(stall=True)
        hide(trio)
        await trio.liar.drop_sockets()
        await eventually(lambda: rig.node.chain.state.endpoint is None, "no endpoint is followed")
        await chain.revoke(1)
        await settled(rig, chain, "the revocation by the third endpoint")
        assert rig.node.chain.state.endpoint is None


async def test_an_endpoint_that_can_not_be_reached_does_not_delay_the_next_second_reading(
    trio: Trio, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PATIENCE", 0.1)
    await trio.chain.mint(1)
    async with running(make_rig, trio, resync_interval=3600) as rig:
        await settled(rig, trio.chain, "the initial peers")
        trio.servers[2].faults.by_method["eth_chainId"] = Fault(stall=True)
        async with asyncio.timeout(loop.SECOND_READING / 3):
            assert await rig.node.chain.confirm({key_of(1): 1}) == set(), "the second endpoint contradicts"


@pytest.mark.parametrize("stalls", [True, False])
async def test_no_one_endpoint_keeps_a_mass_revocation_held(
    trio: Trio, make_rig: MakeRig, *, stalls: bool
) -> None:
    """A mass removal waits for confirmation. One endpoint contradicts it, or stalls."""
    chain = trio.chain
    for number in range(1, 7):
        await chain.mint(number)
    async with running(make_rig, trio, resync_interval=3600) as rig:
        await settled(rig, chain, "the initial peers")
        liar, before = trio.servers[1], dict(chain.head.tokens)
        liar.faults.lies.state = lambda tokens, number: before
        if stalls:
            liar.faults.by_method["eth_call"] = Fault(stall=True)
        await chain.mine(*(registry.revoke(token) for token in range(1, 6)))
        await settled(rig, chain, "the removal, confirmed by the third endpoint")


async def test_an_endpoint_whose_blocks_are_made_up_hides_no_revocation(
    trio: Trio, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The followed endpoint continues with a fork that no other endpoint has."""
    monkeypatch.setattr(quorum_checker, "AGREED", 2.0)
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    fork = FakeChain(genesis_seed=chain.genesis_seed)
    fork.blocks = list(chain.blocks)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        trio.liar.chain, fork.announce, fork._forks = fork, trio.liar._announce, 1
        for _ in range(5):
            await fork.mine()
        await eventually(lambda: rig.tip == fork.head.number, "the fork is followed")
        await chain.revoke(1)
        await settled(rig, chain, "the revocation by the other endpoints")
        await eventually(lambda: trio.liar.ws in quarantined(rig), "the endpoint is quarantined")


async def test_a_forged_revocation_by_the_followed_endpoint_is_undone(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.liar.forge(registry.revoke(1))
        await eventually(lambda: RemovePeer(key_of(1)) in rig.device.applied, "the peer is removed")
        await eventually(lambda: trio.liar.ws in quarantined(rig), "the endpoint is quarantined")
        await settled(rig, chain, "the peer is added again")


async def test_a_forged_revocation_by_another_endpoint_is_undone(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.servers[2].forge(registry.revoke(1))
        await eventually(lambda: trio.servers[2].ws in quarantined(rig), "the endpoint is quarantined")
        await settled(rig, chain, "the initial peers again")
        assert rig.node.chain.state.endpoint == trio.liar.ws


async def test_an_end_that_one_endpoint_puts_off_does_not_move(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mine(registry.set_expiry(1, 4_000_000_000))
    async with running(make_rig, trio, 2) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.liar.forge(registry.set_expiry(1, 0))
        await eventually(
            lambda: rig.node.chain.quorum_checker and rig.node.chain.quorum_checker.report().waiting,
            "the change waits",
        )
        assert rig.decide(1).ends == 4_000_000_000
        assert rig.peers == members(chain)


SSH, ALL, WEB = (
    '{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["' + ports + '"]}]}'
    for ports in ("tcp:22", "*", "tcp:443")
)


async def test_a_policy_that_one_endpoint_shows_alone_permits_nothing(trio: Trio, make_rig: MakeRig) -> None:
    """The true policy stays in force; the others contradict the endpoint at the next resync."""
    chain = trio.chain
    await chain.mint(1)
    await chain.mine(registry.set_policy(SSH), registry.define_tag(0, "web"))
    async with running(make_rig, trio) as rig:
        await eventually(lambda: texts(rig) == [SSH], "the confirmed policy")
        assert rig.node.tunnel.members.rules.tag_names == ("web",)
        await trio.liar.forge(registry.set_policy(ALL), registry.define_tag(1, "gateway"))
        await eventually(lambda: len(texts(rig)) == 2 or trio.liar.ws in quarantined(rig), "the forgery")
        assert SSH in texts(rig)
        assert in_force(rig)[0] == SSH
        await eventually(lambda: trio.liar.ws in quarantined(rig), "the endpoint is quarantined")
        await eventually(lambda: texts(rig) == [SSH], "only the true policy")
        await chain.mine(registry.set_policy(WEB))
        await eventually(lambda: texts(rig) == [WEB], "the next policy, by the other endpoints")
        await eventually(lambda: in_force(rig) == [WEB], "it is in force")
        assert rig.node.tunnel.members.rules.tag_names == ("web",)


async def test_a_policy_that_the_followed_endpoint_hides_restricts_at_each_resync(
    trio: Trio, make_rig: MakeRig
) -> None:
    """A resync of the other endpoint by its revision does not take its policy back."""
    chain = trio.chain
    await chain.mine(registry.set_policy(SSH))
    async with running(make_rig, trio, 2) as rig:
        await eventually(lambda: texts(rig) == [SSH], "the confirmed policy")
        await by_revision(rig)
        before = chain.head.contract
        trio.liar.faults.lies.contract = lambda contract: before
        trio.liar.faults.lies.hides = lambda log: True
        await chain.mine(registry.set_policy(WEB))
        await eventually(lambda: WEB in texts(rig), "the policy of the other endpoint")
        state, seen = rig.node.chain.state, list[list[str | None]]()
        ends = state.resyncs + 5
        while state.resyncs < ends:
            seen.append(texts(rig))
            await asyncio.sleep(0.01)
        assert all(WEB in each for each in seen)


def in_force(rig: Rig) -> list[str | None]:
    """Return the texts of the policies that must permit a connection."""
    return [each.text for each in rig.node.members.policies.selection.in_force or ()]


def texts(rig: Rig) -> list[str | None]:
    """Return the texts of the policies in force."""
    return [None if policy is None else policy.text for policy in rig.node.tunnel.members.rules.policies]


async def test_a_restart_remembers_the_confirmed_policy(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mine(registry.set_policy(SSH))
    async with running(make_rig, trio) as rig:
        await eventually(lambda: texts(rig) == [SSH], "the confirmed policy")
        await chain.mine_empty(5)
        await eventually(lambda: CONTRACT in rig.node.persistence._confirmed, "it is stored as confirmed")
    for server in trio.servers:
        await server.stop()
    again = make_rig(trio.urls(), chain.contract, environment={"RPC_QUORUM": "2"})
    async with again.running(settled=False):
        await eventually(lambda: texts(again) == [SSH], "without an endpoint")


async def test_too_few_endpoints_grant_nothing_and_take_nothing_away(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, 2) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.servers[1].stop()
        await eventually(lambda: "1 of the 2 endpoints" in rig.component("quorum"), "health: one is missing")
        await chain.mint(2)
        await eventually(lambda: rig.decide(2).reason is Reason.NO_QUORUM, "the mint is read")
        assert rig.keys == {key_of(1)}
        await chain.revoke(1)
        await eventually(lambda: not rig.keys, "a revocation by one endpoint")
        await trio.servers[1].start()
        chain.announce = trio.liar._announce
        await settled(rig, chain, "the grant is confirmed")


async def test_a_restart_brings_back_only_what_was_vouched_for(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mine_empty(5)
    async with running(make_rig, trio, 2) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.liar.forge(mint(chain, 66))
        await chain.mine_empty(5)
        await eventually(lambda: rig.decide("node-66").reason is Reason.NO_QUORUM, "the forged token is read")
        resyncs = rig.node.chain.state.resyncs
        await eventually(lambda: rig.node.chain.state.resyncs > resyncs + 2, "the registry is stored")
    for server in trio.servers:
        await server.stop()
    rig = make_rig(trio.urls()[:2], chain.contract, environment={"RPC_QUORUM": "2"})
    async with rig.running(settled=False):
        await eventually(lambda: rig.keys, "the stored members")
        assert rig.keys == {key_of(1)}


async def test_quarantine_grows_and_is_followed_by_another_chance(
    trio: Trio, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "QUARANTINE", 0.5)
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.servers[2].forge(registry.revoke(1))
        source = rig.node.chain.source
        await eventually(lambda: source.quarantined().get(trio.servers[2].ws), "the endpoint is quarantined")
        await eventually(lambda: source.quarantined()[trio.servers[2].ws].times > 1, "a second contradiction")
        assert source.quarantined()[trio.servers[2].ws].seconds_left > 0.5
        trio.servers[2].faults.lies.state = lambda tokens, number: tokens
        await eventually(lambda: not quarantined(rig), "the quarantine has ended")
        await settled(rig, chain, "the initial peers again")


@pytest.mark.parametrize("number", range(1, 6))
async def test_a_grant_beside_a_walk_that_ends_where_it_began_waits_for_no_audit(
    trio: Trio, make_rig: MakeRig, number: int
) -> None:
    async with running(make_rig, trio, resync_interval=3600.0) as rig:
        await trio.chain.mine_empty(number)
        # A head of a fork directly after the mint's head starts a walk that finds no change.
        elsewhere = replace(trio.chain.head, hash="0x" + "ab" * 32).header()
        await trio.chain.mint(number)
        await trio.liar.push("newHeads", elsewhere)
        await eventually(lambda: key_of(number) in rig.keys, "the node is granted")


async def test_tokens_that_wait_during_a_walk_are_looked_at_again_soon(trio: Trio, make_rig: MakeRig) -> None:
    async with running(make_rig, trio, resync_interval=3600.0) as rig:
        judges, follower = rig.node.chain.quorum_checker, rig.node.chain.state.follower
        assert judges is not None
        assert judges._patience() is None
        judges.quorum._pending.add(99)
        follower._walk = ForkSearch(None)
        assert judges._patience() == LOOK
        follower._walk = None
        judges.quorum._pending.clear()
