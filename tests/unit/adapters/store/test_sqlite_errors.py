"""Commits that fail."""

import sqlite3
from pathlib import Path

import pytest

from dstack_vpn.adapters.store import sqlite
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import StoreError


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
