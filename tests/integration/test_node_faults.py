"""A node on endpoints that stop, stall, fall silent or send malformed data: it loses no peer."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.anvil import key_of
from tests.fake_chain import FakeChain, FakeServer, Fault, serve
from tests.integration.conftest import MakeRig
from tests.integration.pairs import Pair, members
from tests.integration.support import eventually

from dstack_vpn.adapters.chain import feed, pool, watchdog
from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.core.model import RemovePeer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the deadline of a call to 1 s (from 10 s), and of a subscription to 0.5 s."""
    for method in (Caller.call, Caller.call_many, Caller.call_each):
        defaults = method.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "deadline", 1.0)
    monkeypatch.setattr(watchdog, "_SHORTEST", 0.5)
    monkeypatch.setattr(feed, "GRACE", 0.5)


async def dies(pair: Pair) -> None:
    await pair.first.stop()
    pair.announce_both()


async def stalls(pair: Pair) -> None:
    pair.first.faults.by_method["*"] = Fault(stall=True)


async def falls_silent(pair: Pair) -> None:
    pair.first.faults.silent = pair.first.faults.mute_logs = True


async def answers_html(pair: Pair) -> None:
    pair.first.faults.by_method["*"] = Fault(body="<html><body>502 Bad Gateway</body></html>")


async def truncates(pair: Pair) -> None:
    pair.first.faults.by_method["*"] = Fault(body='{"jsonrpc":"2.0","id":1,"resu')


async def limits(pair: Pair) -> None:
    pair.first.faults.by_method["*"] = Fault(status=429, headers={"Retry-After": "30"})
    pair.first.faults.by_method["handshake"] = Fault(status=429, headers={"Retry-After": "30"})


async def answers_null(pair: Pair) -> None:
    pair.first.faults.by_method["*"] = Fault(result=None)


FAULTS = [dies, stalls, answers_html, truncates, limits, answers_null]
CASES = [(scheme, fault) for fault in FAULTS for scheme in ("ws", "http")] + [("ws", falls_silent)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("scheme", "fault"), CASES, ids=lambda x: x if isinstance(x, str) else x.__name__)
async def test_the_second_endpoint_takes_over_without_a_peer_lost(
    pair: Pair, scheme: str, fault: Callable[[Pair], Any], make_rig: MakeRig
) -> None:
    for number in (1, 2):
        await pair.chain.mint(number)
    rig = make_rig(pair.urls(scheme), pair.chain.contract, pace=0.2)
    async with rig.running():
        assert rig.node.chain.state.endpoint == getattr(pair.first, scheme)
        await rig.settle(members(pair.chain), "the initial peers")
        await fault(pair)
        await pair.chain.mint(3)
        await eventually(
            lambda: rig.node.chain.state.endpoint == getattr(pair.second, scheme), "the other endpoint"
        )
        await pair.chain.mint(4)
        await rig.settle(members(pair.chain), "the peers after both mints")
        assert not [change for change in rig.device.applied if isinstance(change, RemovePeer)]
        assert rig.component("chain") == f"ok: following {getattr(pair.second, scheme)}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_node_starts_on_the_second_endpoint_where_the_first_is_of_no_use(
    pair: Pair, scheme: str, fault: Callable[[Pair], Any], make_rig: MakeRig
) -> None:
    await pair.chain.mint(1)
    await fault(pair)
    async with make_rig(pair.urls(scheme), pair.chain.contract).running() as rig:
        await rig.settle(members(pair.chain), "the initial peers")
        assert rig.component("chain") == f"ok: following {getattr(pair.second, scheme)}"


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(
    ("stranger", "problem"),
    [
        (FakeChain(chain_id=1), "the endpoint serves chain 1, but chain 31337 is configured"),
        (FakeChain(genesis_seed="other"), "begins with block"),
        (FakeChain(contract="0x" + "11" * 20), "there is no contract at"),
    ],
    ids=["chain-id", "genesis", "contract"],
)
async def test_an_endpoint_of_another_chain_is_never_followed(
    fake_chain: FakeServer,
    scheme: str,
    stranger: FakeChain,
    problem: str,
    make_rig: MakeRig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "WRONG_CHAIN_PAUSE", 0.05)  # health shows the latest problem
    chain = fake_chain.chain
    await chain.mint(1)
    async with serve(stranger) as other:
        rig = make_rig([getattr(fake_chain, scheme), getattr(other, scheme)], chain.contract)
        async with rig.running():
            before = members(chain)
            await rig.settle(before, "the initial peers")
            await fake_chain.stop()
            await eventually(lambda: problem in rig.component("chain"), "health shows the problem")
            assert await rig.node.reconciler.repair()
            assert rig.peers == before
            await fake_chain.start()
            await chain.mint(2)
            await rig.settle(members(chain), "the right chain is back")


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_both_endpoints_away_and_back(pair: Pair, scheme: str, make_rig: MakeRig) -> None:
    for number in (1, 2):
        await pair.chain.mint(number)
    rig = make_rig(pair.urls(scheme), pair.chain.contract)
    async with rig.running():
        before = members(pair.chain)
        await rig.settle(before, "the initial peers")
        await pair.first.stop()
        await pair.second.stop()
        pair.announce_both()
        await eventually(lambda: rig.component("chain").startswith("failed: "), "health shows the failure")
        assert "can't be reached" in rig.component("chain") or "endpoint" in rig.component("chain")
        await pair.chain.revoke(1)
        await pair.chain.mint(3)
        assert await rig.node.reconciler.repair()
        assert rig.peers == before
        assert rig.health().ready
        await pair.first.start()
        await pair.second.start()
        pair.announce_both()
        await rig.settle(members(pair.chain), "the changes of the outage")
        assert rig.keys == {key_of(2), key_of(3)}
        await eventually(lambda: rig.component("chain").startswith("ok: "), "health shows the recovery")
