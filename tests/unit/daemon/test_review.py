"""What a review of the bridge and the core found: each of these went wrong once."""

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from tests.scripted import MemoryStore, ScriptedChain, ScriptedSource, grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.adapters.store import sqlite
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.events import ExpiryUpdated, Granted, LoggedEvent, Revoked, TokenState
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, Endpoint, TokenId
from dstack_vpn.core.wireguard.config_file import parse, render
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.peers import endpoints
from dstack_vpn.errors import DeviceError, EndpointError, StoreError

# -- access -------------------------------------------------------------------------------------------


async def test_nobody_takes_our_address_by_claiming_our_key(bench: Bench) -> None:
    bench.chain.mine(Granted(3, "0xme", "node-0", derive(OWN)))
    async with bench.running() as node:
        await eventually(lambda: node.tunnel.members.own_node)
        bench.source.tell(bench.chain.mine(Granted(9, "0xthief", "thief", derive(OWN))))
        await eventually(lambda: 9 in node.tunnel.members.follower.registry.nodes)
        own = node.tunnel.members.own_node
        assert own is not None
        assert own.token_id == 3


async def test_a_second_claim_does_not_keep_the_first_from_being_confirmed(bench: Bench) -> None:
    bench.confirmations = 2
    async with bench.running() as node:
        await eventually(lambda: node.members.synced)
        bench.source.tell(bench.chain.mine(grant(1)))
        bench.source.tell(bench.chain.mine(grant(2, 1)))
        for _ in range(3):
            bench.source.tell(bench.chain.mine())
        await eventually(lambda: bench.tokens() == {1})


async def test_our_own_expiry_shows_in_health(bench: Bench) -> None:
    async with bench.running() as node:
        await eventually(node.tunnel.up.is_set)
        end = int(node.tunnel.clock.now()) + 1
        own = Granted(0, "0xme", "node-0", derive(OWN))
        bench.source.tell(bench.chain.mine(own, ExpiryUpdated(0, end)))
        await eventually(lambda: bench.component("membership") == "ok: ")
        await eventually(lambda: "expired" in bench.component("membership"))


# -- the follower -------------------------------------------------------------------------------------


def test_a_log_that_the_base_contains_is_not_applied_again() -> None:
    chain, follower = ScriptedChain(), Follower()
    _, granted, _ = chain.mine(grant(1), Revoked(1))
    follower.bootstrapped(chain.registry(), chain.head)
    assert follower.receive(granted) == []
    assert follower.registry == chain.registry()


def test_an_endpoint_that_lags_takes_nothing_back() -> None:
    """After a restart, few of the blocks below our tip are known by their hash."""
    chain, follower = ScriptedChain(), Follower()
    chain.mine(grant(1))
    settled = chain.head
    for _ in range(4):
        chain.mine()
    behind = chain.head
    chain.mine()
    _, *logs = chain.mine(Revoked(1))
    revoked = [log for log in logs if isinstance(log, LoggedEvent)]
    chain.mine()
    follower.restore(chain.registry(settled.number), settled, revoked, chain.head)
    lagging = replace(chain, blocks=chain.blocks[: behind.number + 1])
    source = ScriptedSource(lagging)
    asyncio.run(_settle(follower, source))
    assert not follower.registry.nodes[1].active
    assert follower.tip == chain.head


async def _settle(follower: Follower, source: ScriptedSource) -> None:
    """Answer what the follower asks for, until it asks for nothing."""
    from dstack_vpn.core.chain.commands import FetchEvents, FetchHead, FetchHeader

    commands = follower.receive(source.chain.head)
    while commands:
        match commands.pop(0):
            case FetchHead() as fetch:
                commands += follower.fetched(fetch, await source.head())
            case FetchHeader(number) as fetch:
                commands += follower.fetched(fetch, await source.header(number))
            case FetchEvents(first, last) as fetch:
                commands += follower.fetched(fetch, await source.events_up_to(first, last))


def test_nothing_is_settled_under_a_walk() -> None:
    chain, follower = ScriptedChain(), Follower()
    follower.bootstrapped(Registry(), chain.head)
    chain.mine()
    follower.receive(chain.head)
    chain.mine()
    final = chain.head
    follower.receive(final)
    chain.mine()
    chain.mine()
    follower.receive(chain.head)
    assert follower.walking
    assert not follower.settle(final)


# -- sessions -----------------------------------------------------------------------------------------


@dataclass
class _StumblingSource(ScriptedSource):
    """Reading tokens fails, the first times."""

    stumbles: int = 1

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        if self.stumbles:
            self.stumbles -= 1
            raise EndpointError("too many requests")
        return await ScriptedSource.read_tokens(self, tokens, at)


async def test_a_first_reading_that_breaks_off_is_begun_anew(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    bench.source = _StumblingSource(bench.chain, enumerates=False)
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})


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


# -- the brake ----------------------------------------------------------------------------------------


async def _eight_peers(bench: Bench) -> None:
    await eventually(lambda: bench.link.device is not None and len(bench.tokens()) == 8)


def left_above(bench: Bench, token: TokenId) -> bool:
    """Whether just the tokens above that one are peers still."""
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
        honest.mine(*(grant(token) for token in range(1, 9)), Revoked(1))
        bench.source.second = honest
        bench.source.tell(bench.chain.mine(*(Revoked(token) for token in range(1, 7))))
        await eventually(lambda: bench.tokens() == set(range(2, 9)))
        await eventually(lambda: len(bench.node.reconciler.removal_guard.held) == 5)


async def test_what_was_released_once_is_doubted_again(bench: Bench) -> None:
    """A key that came back must not carry the leave to go from an earlier time."""
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


# -- repairs ------------------------------------------------------------------------------------------


async def test_a_repair_that_failed_is_tried_again_before_the_audit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_vpn.daemon.peers.reconciler.RETRY", 0.05, raising=False)
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: bench.link.device is not None and bench.tokens() == {1})
        await eventually(
            lambda: node.reporter.collect().device.problem is None and node.reconciler.compared_at
        )
        device, apply, failures = bench.device, bench.device.apply, 3

        async def failing(changes: object) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise DeviceError("out of memory")
            await apply(changes)  # type: ignore[arg-type]  # passed through as it came

        monkeypatch.setattr(type(device), "apply", lambda _, changes: failing(changes))
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == set())


# -- the store ----------------------------------------------------------------------------------------


@dataclass
class _FullStore(MemoryStore):
    full: bool = False

    async def append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        if self.full:
            raise StoreError("the disk is full")
        await MemoryStore.append(self, tip, added, dropped, synced)


async def test_what_the_store_refused_is_written_once_it_can_be(bench: Bench) -> None:
    bench.store = store = _FullStore()
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: store.saved)
        store.full = True
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: "disk is full" in bench.component("store"))
        await node.persistence._attempt("config", node.persistence.read_pin())
        assert "disk is full" in bench.component("store"), (
            "another file that is well says nothing of this one"
        )
        store.full = False
        bench.source.tell(bench.chain.mine(grant(3)))
        await eventually(lambda: bench.component("store") == "ok: ")
        assert store.saved is not None
        assert Revoked(1) in [logged.event for logged in store.saved.events]


async def test_a_pin_that_cannot_be_read_goes_on_being_a_problem(bench: Bench) -> None:
    bench.archive.pin = "nonsense"
    async with bench.running() as node:
        await eventually(lambda: "pinned" in bench.component("store"))
        with pytest.raises(StoreError):
            await node.persistence.read_pin()


async def test_a_failed_commit_leaves_no_transaction_open() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE a (x INTEGER PRIMARY KEY);"
        "CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
    )
    with pytest.raises(sqlite3.Error), sqlite._transaction(connection):
        connection.execute("INSERT INTO b VALUES (1)")
    assert not connection.in_transaction
    connection.close()


async def test_a_height_that_no_file_can_hold_is_the_stores_problem(tmp_path: Path) -> None:
    store = sqlite.SqliteStore(tmp_path / "registry.sqlite")
    with pytest.raises(StoreError):
        await store.append(BlockRef(2**64 - 1, "0x", "0x", 0), [], [])
    await store.close()


# -- names --------------------------------------------------------------------------------------------


def test_a_name_server_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(10) and [])

    async def begin_and_end() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await SystemResolver().resolve("slow.example", 1)

    began = time.monotonic()
    asyncio.run(begin_and_end())
    answer.set()
    assert time.monotonic() - began < 5.0


# -- the tunnel ---------------------------------------------------------------------------------------


async def test_a_link_that_is_well_again_is_so_in_health_before_the_audit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_vpn.daemon.device.tunnel.CHECK", 0.05)
    bench.chain.mine(Granted(0, "0xme", "node-0", derive(OWN)))
    async with bench.running() as node:
        await eventually(lambda: bench.component("device") == "ok: " and bench.link.settings)
        is_up, failures = bench.link.is_up, 1

        async def failing() -> bool:
            nonlocal failures
            if failures:
                failures -= 1
                raise DeviceError("no answer from the kernel")
            return await is_up()

        await eventually(
            lambda: (
                node.reconciler.compared_at and node.tunnel.clock.now() - node.reconciler.compared_at > 0.7
            )
        )
        monkeypatch.setattr(bench.link, "is_up", failing)
        await eventually(lambda: "no answer" in bench.component("device"))
        await eventually(lambda: bench.component("device") == "ok: ")
