"""A node with REVOKE_EARLY on a fake chain that announces logs of pre-confirmed blocks."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.anvil import key_of
from tests.fake_chain import FakeServer, Fault, registry, serve
from tests.fake_chain.registry import Transaction
from tests.integration.conftest import MakeRig
from tests.integration.pairs import members
from tests.integration.support import Rig, eventually

from dstack_vpn.adapters.chain.identity import Target
from dstack_vpn.adapters.chain.session import SessionSettings
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.doctor import chain as doctor
from dstack_vpn.core.access import early
from dstack_vpn.core.model import RemovePeer, SetPeer
from dstack_vpn.core.observe.check import CheckStatus
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import Decided, EarlyRemovalFalse, EarlyUnavailable, PeerRemoved
from dstack_vpn.wiring.trust_metrics import trust_families

EARLY = {"REVOKE_EARLY": "1"}
MODES = ({"FOLLOW": "full"}, {"FOLLOW": "economy", "HEAD_INTERVAL": "30s"})
OUT = "revoked in a block that is not confirmed yet"
NAME = "pendingLogs"


@pytest.fixture(params=MODES, ids=lambda mode: mode["FOLLOW"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings, with announced and with polled heads."""
    mode: dict[str, str] = request.param
    return EARLY | mode


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """Yield an endpoint with pre-confirmed logs, and a chain with four members."""
    async with serve() as server:
        server.pending_logs = NAME
        for number in range(1, 5):
            await server.chain.mint(number)
        yield server


def shorten(monkeypatch: pytest.MonkeyPatch, deadline: float = 0.5) -> None:
    monkeypatch.setattr(early, "DEADLINE", deadline)


def events_of(rig: Rig, kind: type[Event]) -> list[Any]:
    return [entry.event for entry in rig.node.event_log.latest() if isinstance(entry.event, kind)]


def changes_of(rig: Rig, number: int) -> list[type[object]]:
    """Return the kinds of the device's changes of a node's peer."""
    return [type(change) for change in rig.device.applied if change.public_key == key_of(number)]


async def subscribed(rig: Rig) -> None:
    def is_done() -> bool:
        report = rig.node.members.early.report()
        return report is not None and report.endpoint is not None

    await eventually(is_done, "the subscription to pre-confirmed logs")


ENDINGS = (
    registry.revoke(1),
    registry.transfer(1, "0x" + "ee" * 20),
    registry.update_key(1, str(key_of(77))),
)


@pytest.mark.parametrize("ending", ENDINGS, ids=["revocation", "transfer", "key"])
async def test_the_peer_goes_at_once_and_the_block_takes_over_without_a_gap(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str], ending: Transaction
) -> None:
    chain = server.chain
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        stored = rig.node.members.follower.registry
        await chain.preconfirm(ending)
        await eventually(lambda: key_of(1) not in rig.keys, "the early removal")
        assert rig.keys == {key_of(number) for number in (2, 3, 4)}
        assert rig.node.members.follower.registry is stored
        assert rig.node.chain.state.needs_heads()
        assert str(rig.decide(1)).startswith(OUT)
        await chain.mine(ending)
        await rig.settle(members(chain), "the block")
        await eventually(lambda: not rig.node.members.early.waits, "the end of the early removal")
        assert changes_of(rig, 1) == [SetPeer, RemovePeer]
        assert not events_of(rig, EarlyRemovalFalse)
        (removed,) = events_of(rig, PeerRemoved)
        assert removed.reason.startswith(OUT) and removed.cause is None
        families = {each.name: each for each in trust_families(rig.node.reporter.collect())}
        outcomes = families["dstack_vpn_early_removals"].samples
        assert {x.labels["outcome"]: x.value for x in outcomes} == {"confirmed": 1, "false": 0}
        assert families["dstack_vpn_early_available"].samples[0].value == 1
        assert families["dstack_vpn_early_removed_tokens"].samples[0].value == 0


async def test_the_peer_is_back_if_the_next_blocks_lack_the_event(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str]
) -> None:
    chain = server.chain
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        await chain.preconfirm(registry.revoke(1))
        await eventually(lambda: key_of(1) not in rig.keys, "the early removal")
        await chain.mine_empty(early.PASSED)
        await eventually(lambda: rig.tip == chain.head.number, "the blocks")
        assert key_of(1) not in rig.keys, "its block and four more are not enough"
        await chain.mine_empty(1)
        await rig.settle(members(chain), "the peer is back")
        (event,) = events_of(rig, EarlyRemovalFalse)
        assert (event.tokens, event.token) == (1, 1)
        reasons = [(each.granted, each.reason.partition(" (")[0]) for each in events_of(rig, Decided)]
        assert reasons[-2:] == [(False, OUT), (True, "active")]
        assert rig.component("early revocation").startswith("warning: ignored for ")
        # The endpoint's next hints are ignored, and a block counts as before.
        await chain.preconfirm(registry.revoke(2))
        await chain.mine(registry.revoke(3))
        await rig.settle(members(chain), "an ordinary revocation")
        assert rig.keys == {key_of(number) for number in (1, 2, 4)}
        assert changes_of(rig, 2) == [SetPeer]


async def test_the_peer_is_back_after_the_deadline(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain stands still, so that no block shows whether the event is in one."""
    shorten(monkeypatch)
    chain = server.chain
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        await chain.preconfirm(registry.revoke(1), ahead=1_000_000)
        await eventually(lambda: key_of(1) not in rig.keys, "the early removal")
        await rig.settle(members(chain), "the peer is back")
        assert len(events_of(rig, EarlyRemovalFalse)) == 1


async def test_a_hint_gives_no_access(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str]
) -> None:
    chain = server.chain
    await chain.revoke(4)
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        before = len(rig.device.applied)
        mint = registry.mint(chain.accounts[1], "node-9", str(key_of(9)))
        await chain.preconfirm(mint, registry.set_tags(1, 3), registry.set_expiry(2, 1))
        # The last hint shows that the others were taken.
        await chain.preconfirm(registry.update_key(1, str(key_of(77))))
        await eventually(lambda: key_of(1) not in rig.keys, "the last hint")
        assert rig.keys == {key_of(2), key_of(3)}
        assert [type(change) for change in rig.device.applied[before:]] == [RemovePeer]


@pytest.mark.parametrize("fields", [{"blockHash": None, "logIndex": None}, {"blockNumber": None}, {}])
async def test_fields_of_a_pending_log_may_be_unknown(
    make_rig: MakeRig, server: FakeServer, fields: dict[str, None]
) -> None:
    chain = server.chain
    async with make_rig(server.ws, chain.contract, environment=EARLY).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        (log,) = await chain.preconfirm(registry.revoke(1), announced=False)
        await server.push(NAME, log | fields)
        await eventually(lambda: key_of(1) not in rig.keys, "the early removal")
        await chain.revoke(1)
        await rig.settle(members(chain), "the block")
        assert changes_of(rig, 1) == [SetPeer, RemovePeer]


async def test_another_name_of_the_subscription(make_rig: MakeRig, server: FakeServer) -> None:
    server.pending_logs = "newFlashblockLogs"
    environment = {"REVOKE_EARLY": "newFlashblockLogs"}
    async with make_rig(server.ws, server.chain.contract, environment=environment).running() as rig:
        await rig.settle(members(server.chain), "the initial peers")
        await subscribed(rig)
        await server.chain.preconfirm(registry.revoke(1))
        await eventually(lambda: key_of(1) not in rig.keys, "the early removal")


REFUSALS = (
    None,
    Fault(error={"code": -32602, "message": "invalid subscription name"}),
    Fault(error={"code": -32005, "message": "rate limit exceeded"}),
    Fault(result=None),
    Fault(stall=True),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=["unknown", "invalid", "limit", "no id", "stall"])
async def test_a_refusal_is_reported_once_and_the_session_goes_on(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str], refusal: Fault | None
) -> None:
    chain, economy = server.chain, environment["FOLLOW"] == "economy"
    if refusal is None:
        server.pending_logs = None
    else:
        refuse_third(server, refusal, nth=2 if economy else 3)
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        (event,) = events_of(rig, EarlyUnavailable)
        assert event.endpoint == server.ws and event.problem
        reason = f"not available from {server.ws}: {event.problem}"
        assert rig.component("early revocation") == f"warning: {reason}"
        await chain.revoke(1)
        await rig.settle(members(chain), "an ordinary revocation")
        asked = [parameters[0] for method, parameters in rig.asked if method == "eth_subscribe"]
        assert asked.count(NAME) == 1
        assert len(rig.sessions) == 1


def refuse_third(server: FakeServer, refusal: Fault, nth: int) -> None:
    """Refuse the n-th subscription of a connection."""
    take, seen = server.faults.take, 0

    def counted(method: str) -> Fault | None:
        nonlocal seen
        seen += method == "eth_subscribe"
        return refusal if method == "eth_subscribe" and seen == nth else take(method)

    setattr(server.faults, "take", counted)  # noqa: B010  # the attribute is a method to the type checker


async def test_over_http_it_is_not_available(make_rig: MakeRig, server: FakeServer) -> None:
    """Settings with HTTP alone are refused. With several URLs, the followed one may be HTTP."""
    urls = [server.http, server.ws]
    async with make_rig(urls, server.chain.contract, environment=EARLY).running() as rig:
        await rig.settle(members(server.chain), "the initial peers")
        await subscribed(rig)
        assert rig.component("early revocation") == (
            f"warning: not available from {server.http}: it is used over HTTP"
        )


@pytest.mark.parametrize(
    "result", [None, 7, "0x", {}, {"address": "0x1"}, {"topics": None}, {"blockNumber": "one"}]
)
async def test_a_malformed_pending_log_ends_the_session(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str], result: Any
) -> None:
    chain = server.chain
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        (log,) = await chain.preconfirm(registry.revoke(1), announced=False)
        await server.push(NAME, log | result if isinstance(result, dict) and result else result)
        await eventually(lambda: len(rig.sessions) == 2, "another session")
        await rig.settle(members(chain), "the same peers")
        assert changes_of(rig, 1) == [SetPeer]


async def test_removals_of_more_than_half_are_held(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reading has no hints, and shows that the members are still there."""
    shorten(monkeypatch, 2.0)
    chain = server.chain
    for number in range(5, 21):
        await chain.mint(number)
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        logs = await chain.preconfirm(*(registry.revoke(n) for n in range(1, 21)), announced=False)
        await server._announce(NAME, logs)
        await eventually(lambda: rig.node.members.early.waits, "the hints")
        await eventually(lambda: rig.node.reconciler.removal_guard.held, "held removals")
        await eventually(lambda: not rig.node.members.early.waits, "the deadline")
        await rig.settle(members(chain), "all peers")
        removed = [change for change in rig.device.applied if isinstance(change, RemovePeer)]
        assert len(removed) <= 10


async def test_a_flood_of_hints_is_bounded(
    make_rig: MakeRig, server: FakeServer, environment: dict[str, str]
) -> None:
    chain = server.chain
    async with make_rig(server.ws, chain.contract, environment=environment).running() as rig:
        await rig.settle(members(chain), "the initial peers")
        await subscribed(rig)
        for number in range(400):
            keys = [registry.update_key(token, str(key_of(1000 + number))) for token in (1, 2)]
            await chain.preconfirm(*keys, registry.emit(*minted(chain.accounts[2], number)))
        await chain.revoke(4)
        await rig.settle(
            {k: v for k, v in members(chain).items() if k == str(key_of(3))}, "the hints and a revocation"
        )
        hints = rig.node.members.early._removals._hints
        assert {token: len(each) for token, each in hints.items()} == {1: early.MOST, 2: early.MOST}
        assert len(rig.sessions) == 1


@pytest.mark.parametrize(
    ("scheme", "name", "status", "found"),
    [
        ("ws", NAME, CheckStatus.PASS, "it accepts the subscription to logs of pre-confirmed blocks"),
        ("ws", "newLogs", CheckStatus.WARN, 'no "newLogs" subscription in eth namespace'),
        ("http", NAME, CheckStatus.WARN, "it is used over HTTP"),
    ],
)
async def test_doctor_tries_the_subscription(
    server: FakeServer, scheme: str, name: str, status: CheckStatus, found: str
) -> None:
    url, target = RpcUrl.parse(getattr(server, scheme)), Target(server.chain.contract)
    probed = await doctor.endpoint(url, target, SessionSettings(early=name), 0.0)
    assert probed.early is not None
    assert (probed.early.status, probed.early.name) == (status, f"early revocation {url.way}")
    assert found in probed.early.found
    assert (await doctor.endpoint(url, target, SessionSettings(), 0.0)).early is None


def minted(owner: str, number: int) -> list[registry.Emitted]:
    return registry.mint(owner, f"flood-{number}", str(key_of(2000 + number)))({}, 1, 1)[1]
