"""The store's contents, also after crashes and damage."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.scripted import IDENTITY, MemoryStore, grant

from dstack_vpn.adapters.store import sqlite
from dstack_vpn.adapters.store.records import dump_node
from dstack_vpn.adapters.store.sqlite import SqliteStore
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import (
    ContractRead,
    LoggedEvent,
    PolicyRead,
    RegistryEvent,
    Revoked,
    TagDefined,
    TokenState,
)
from dstack_vpn.core.chain.history import position_of
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import END_OF_BLOCK, BlockRef, Endpoint, Position
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import Checkpoint, Store

BLOCKS = [BlockRef(n, f"h{n}", f"h{n - 1}", n) for n in range(6)]
NODE = Node(2**200, "0xa", "web", None, PeerEndpoint(Endpoint("192.0.2.1", 1)))


CONTRACT = ContractState(
    is_read=True,
    tag_names=("web", ""),
    policy=Policy("0x" + "ab" * 32, Position(1, 2), "allow \0 \N{SNOWMAN} \N{ESCAPE}[2J"),
    minters=("0xb", "0xc"),
    owner="0xa",
)


def log(block: int, index: int, event: RegistryEvent) -> LoggedEvent:
    return LoggedEvent(block, f"h{block}", index, event)


CHECKPOINT = Checkpoint(
    IDENTITY,
    BLOCKS[1],
    (NODE,),
    (log(2, 0, grant(1)),),
    BLOCKS[2],
    frozenset({NODE.token_id}),
    1000.5,
    CONTRACT,
)


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Yield each implementation. The tests' fake must behave as `SqliteStore` does."""
    store: Store = (
        SqliteStore(tmp_path / "state" / "r.sqlite") if request.param == "sqlite" else MemoryStore()
    )
    yield store
    await store.close()


async def test_nothing_at_first(store: Store) -> None:
    assert await store.load() is None


async def test_a_checkpoint_replaces_everything(store: Store) -> None:
    await store.checkpoint(CHECKPOINT)
    assert await store.load() == CHECKPOINT
    other = Checkpoint(IDENTITY, BLOCKS[2], (), (), BLOCKS[3])
    await store.checkpoint(other)
    assert await store.load() == other


async def test_events_and_the_tip_move_together(store: Store) -> None:
    await store.checkpoint(CHECKPOINT)
    await store.append(BLOCKS[4], [log(3, 1, Revoked(1)), log(3, END_OF_BLOCK, TokenState(1, None))], [])
    loaded = await store.load()
    assert loaded is not None
    assert loaded.tip == BLOCKS[4]
    assert [x.event for x in loaded.events] == [grant(1), Revoked(1), TokenState(1, None)]
    await store.append(BLOCKS[3], [], [log(3, 1, Revoked(1))])
    loaded = await store.load()
    assert loaded is not None
    assert (len(loaded.events), loaded.tip) == (2, BLOCKS[3])


async def test_the_text_of_a_policy_is_an_event_of_its_block(store: Store) -> None:
    await store.checkpoint(CHECKPOINT)
    readings: list[RegistryEvent] = [PolicyRead(CONTRACT.policy), ContractRead(CONTRACT), TokenState(1, None)]
    logs = [log(3, 0, TagDefined(2, "db")), *(log(3, END_OF_BLOCK, each) for each in readings)]
    await store.append(BLOCKS[4], logs, [])
    loaded = await store.load()
    assert loaded is not None
    assert sorted(loaded.events, key=position_of) == sorted([*CHECKPOINT.events, *logs], key=position_of)


async def test_the_time_moves_with_the_tip(store: Store) -> None:
    await store.checkpoint(CHECKPOINT)
    await store.append(BLOCKS[3], [], [], 1001.5)
    loaded = await store.load()
    assert loaded is not None
    assert (loaded.synced, loaded.confirmed) == (1001.5, CHECKPOINT.confirmed)


async def test_a_file_of_an_earlier_release(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "r.sqlite")
    await first.checkpoint(CHECKPOINT)
    await first.close()
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        connection.executescript("DROP TABLE witnessed; DROP TABLE moment; DROP TABLE contract")
    second = SqliteStore(tmp_path / "r.sqlite")
    assert await second.load() == replace(
        CHECKPOINT, confirmed=frozenset(), synced=None, contract=ContractState()
    )
    await second.close()


async def test_a_second_process_finds_what_the_first_committed(tmp_path: Path) -> None:
    first, second = (SqliteStore(tmp_path / "r.sqlite") for _ in range(2))
    await first.checkpoint(CHECKPOINT)
    # The first store is not closed, as after SIGKILL.
    assert await second.load() == CHECKPOINT
    await first.close()
    await second.close()


async def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = SqliteStore(path)
    await store.checkpoint(CHECKPOINT)
    await store.close()
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    store = SqliteStore(path)
    assert await store.load() is None
    await store.checkpoint(CHECKPOINT)
    assert await store.load() == CHECKPOINT
    await store.close()
    assert path.with_suffix(".corrupt").exists()


ODD = [
    "[" * 100_000,
    dump_node(NODE).replace('"active":true', '"active":"no"'),
    dump_node(NODE).replace('"expires_at":0', '"expires_at":0.5'),
]


@pytest.mark.parametrize(
    ("change", "values"),
    [
        *[
            ("UPDATE node SET record = ?", [record])
            for record in [
                "{",
                '{"type":"Nonsense"}',
                '{"type":"Node"}',
                "[1]",
                '{"key":"00"}',
                *ODD,
                b"\xff",
            ]
        ],
        ("UPDATE node SET record = CAST(? AS TEXT)", [b"\xff"]),
        ("ALTER TABLE node RENAME COLUMN record TO other", []),
        ("UPDATE block SET number = ?", ["seven"]),
        ("UPDATE block SET hash = ?", [b"\xff"]),
        ("UPDATE identity SET chain_id = ?", [b"\xff"]),
    ],
)
async def test_a_damaged_row_is_a_damaged_file(
    tmp_path: Path, change: str, values: list[str | bytes]
) -> None:
    path = tmp_path / "r.sqlite"
    store = SqliteStore(path)
    await store.checkpoint(CHECKPOINT)
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute(change, values)
    connection.commit()
    connection.close()
    store = SqliteStore(path)
    assert await store.load() is None
    await store.close()


async def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "r.sqlite")
    with pytest.raises(StoreError, match=r"r\.sqlite"):
        await store.load()
    await store.close()


async def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state" / "r.sqlite")
    await store.checkpoint(CHECKPOINT)
    await store.close()
    assert (tmp_path / "state" / "r.sqlite").stat().st_mode & 0o077 == 0


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
