"""Mass removals, pins and second readings."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pytest
from tests.scripted import ScriptedChain, grant, key
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.chain.events import Revoked
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.wireguard.config_file import parse, render
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers import reconciler


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "CONFIRM_PAUSE", 0.05)


async def _eight_peers(bench: Bench) -> None:
    await eventually(lambda: bench.link.device is not None and len(bench.tokens()) == 8)


def left_above(bench: Bench, token: TokenId) -> bool:
    """Return True if exactly the tokens above this one are still peers."""
    return bench.tokens() == set(range(token + 1, 9))


async def test_a_pin_needs_no_second_reading(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running():
        await _eight_peers(bench)
        await eventually(lambda: bench.archive.text.count("[Peer]") == 8)
        config = parse(bench.archive.text)
        bench.archive.pin = render(replace(config, peers=config.peers[:2]))
        await eventually(lambda: bench.tokens() == {1, 2})
        assert not bench.node.reconciler.removal_guard.held


async def test_many_small_removals_wait_like_one_large_one(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    honest = ScriptedChain()
    honest.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running() as node:
        await _eight_peers(bench)
        bench.source.second = honest
        for token in range(1, 5):
            bench.source.tell(bench.chain.mine(Revoked(token)))
            await eventually(partial(left_above, bench, token))
        bench.source.tell(bench.chain.mine(Revoked(5)))
        await eventually(lambda: len(node.reconciler.removal_guard.held) == 1)
        await eventually(lambda: bench.source.seconds >= 1)
        assert bench.tokens() == {5, 6, 7, 8}, "the other endpoint still has all of them"
        assert "more than half of the peers within an hour" in bench.component("registry")


async def test_honest_revocations_one_by_one_are_confirmed_and_go(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running() as node:
        await _eight_peers(bench)
        for token in range(1, 9):
            bench.source.tell(bench.chain.mine(Revoked(token)))
            await eventually(partial(left_above, bench, token), timeout=2.0)
        assert bench.source.seconds == 1, "one reading confirms those before as well"
        await eventually(lambda: not node.reconciler.removal_guard.held)


async def test_what_both_readings_revoke_goes_though_they_differ_in_more(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running():
        await _eight_peers(bench)
        honest = ScriptedChain()
        honest.mine()
        honest.mine(*(grant(token) for token in range(1, 9)), Revoked(1))
        bench.source.second = honest
        bench.source.tell(bench.chain.mine(*(Revoked(token) for token in range(1, 7))))
        await eventually(lambda: bench.tokens() == set(range(2, 9)))
        await eventually(lambda: len(bench.node.reconciler.removal_guard.held) == 5)


async def test_removals_held_during_a_reading_are_read_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks revoke: the second comes while the first one's removals are being confirmed."""
    monkeypatch.setattr(reconciler, "CONFIRM_PAUSE", 3600.0)
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running() as node:
        await _eight_peers(bench)
        confirm = node.reconciler.confirm

        async def meanwhile(held: Mapping[PublicKey, TokenId | None]) -> set[PublicKey]:
            if bench.source.seconds == 0:
                out = await confirm(held)
                bench.source.tell(bench.chain.mine(Revoked(7)))
                await eventually(lambda: key(7) in node.reconciler.removal_guard.held)
                return out
            return await confirm(held)

        node.reconciler.confirm = meanwhile
        bench.source.tell(bench.chain.mine(*(Revoked(token) for token in range(1, 7))))
        await eventually(lambda: bench.tokens() == {8})


async def test_an_endpoint_that_is_a_block_behind_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "CONFIRM_PAUSE", 3600.0)
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    behind = ScriptedChain()
    behind.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running() as node:
        await _eight_peers(bench)
        bench.source.second = behind
        revoked = [Revoked(token) for token in range(1, 7)]
        bench.source.tell(bench.chain.mine(*revoked))
        await eventually(lambda: bench.source.seconds == 1)
        assert len(node.reconciler.removal_guard.held) == 6
        behind.mine(*revoked)
        await eventually(lambda: bench.tokens() == {7, 8})
        assert bench.source.seconds == 1


async def test_what_was_released_once_is_doubted_again(bench: Bench) -> None:
    """A key that is granted again does not keep an earlier confirmation of its removal."""
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running() as node:
        await _eight_peers(bench)
        node.reconciler.removal_guard.released |= {key(token) for token in range(1, 7)}
        node.reconciler.request_repair()
        await eventually(lambda: not node.reconciler.removal_guard.released)


async def test_a_doubt_ends_when_the_key_is_granted_again(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running():
        await _eight_peers(bench)
        honest = ScriptedChain()
        honest.mine()
        honest.mine(*(grant(token) for token in range(1, 9)))
        bench.source.second = honest
        bench.source.tell(bench.chain.mine(*(Revoked(token) for token in range(1, 7))))
        await eventually(lambda: len(bench.node.reconciler.removal_guard.held) == 6)
        bench.source.tell(bench.chain.mine(*(grant(token) for token in range(1, 7))))
        bench.source.tell(bench.chain.mine(Revoked(8)))
        await eventually(lambda: bench.tokens() == set(range(1, 8)), timeout=2.0)


async def test_confirmations_do_not_weaken_the_second_reading(bench: Bench) -> None:
    bench.confirmations = 2
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    bench.chain.mine()
    bench.chain.mine()
    async with bench.running() as node:
        await _eight_peers(bench)
        bench.source.second = ScriptedChain()
        for _ in range(3):
            bench.source.second.mine()
        bench.source.second.mine(*(grant(token) for token in range(1, 9)))
        assert await node.chain.confirm({key(1): 1}) == set()
