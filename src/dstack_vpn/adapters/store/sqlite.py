"""The registry on disk: SQLite in WAL mode, one writer, one transaction for cursor and events.

It stores the nodes as of a finalized block, the events above it, and the last position, so that a
restart does not read the chain from the beginning. The chain is authoritative. Therefore a damaged
file is moved aside and rebuilt.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from dstack_vpn.adapters.store.advice import advice
from dstack_vpn.adapters.store.records import (
    dump_contract,
    dump_event,
    dump_node,
    dump_policy,
    load_contract,
    load_event,
    load_node,
    load_policy,
)
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.chain.history import position_of
from dstack_vpn.core.model import BlockRef, ChainIdentity
from dstack_vpn.core.policy.selection import GoodPolicy
from dstack_vpn.errors import FormatError, StoreError
from dstack_vpn.ports import Checkpoint

_log = structlog.get_logger(component="store")
_T = TypeVar("_T")

VERSION: Final = 1
"""The version of the tables below, in SQLite's ``user_version``."""

_SCHEMA: Final = """
CREATE TABLE node (token TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
  block INTEGER NOT NULL, log_index INTEGER NOT NULL, token TEXT NOT NULL, block_hash TEXT NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (block, log_index, token)
) WITHOUT ROWID;
CREATE TABLE block (
  name TEXT PRIMARY KEY, number INTEGER NOT NULL, hash TEXT NOT NULL, parent TEXT NOT NULL,
  timestamp INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE identity (chain_id TEXT NOT NULL, genesis TEXT NOT NULL, contract TEXT NOT NULL);
"""
_LATER: Final = """
CREATE TABLE IF NOT EXISTS witnessed (token TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS moment (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contract (record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS policy (record TEXT NOT NULL);
"""
"""Tables that older files of this version lack. Their defaults: nothing confirmed, nothing recent,
the state of the contract itself is not read, and no policy was accepted yet."""
_ABOUT_THE_CONTENT: Final = (None, sqlite3.SQLITE_ERROR)
"""Codes of operational errors: None for text that is not UTF-8, the other for columns and
formats."""


class SqliteStore:
    """See `ports.Store`. All access to the file is in one dedicated thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None

    async def load(self) -> Checkpoint | None:
        """See `ports.Store.load`. A damaged file is moved aside, and the result is None."""
        return await self._run(self._load_or_rebuild)

    async def append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        """See `ports.Store.append`."""
        await self._run(lambda: self._append(tip, added, dropped, synced))

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """See `ports.Store.checkpoint`."""
        await self._run(lambda: self._checkpoint(checkpoint))

    async def keep_policy(self, policy: GoodPolicy) -> None:
        """See `ports.Store.keep_policy`."""
        await self._run(lambda: self._keep_policy(policy))

    async def close(self) -> None:
        """See `ports.Store.close`."""
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError, OverflowError) as error:  # SQLite integers have 63 bits
            raise StoreError(f"{self._path}: {error}{advice(error)}") from error

    # -- in the thread -----------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _load_or_rebuild(self) -> Checkpoint | None:
        try:
            return self._load()
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if isinstance(error, sqlite3.OperationalError) and code not in _ABOUT_THE_CONTENT:
                raise  # a problem of the disk or its permissions, not of the content
            self._move_aside(str(error))
            return self._load()

    def _load(self) -> Checkpoint | None:
        connection = self._open()
        identity = connection.execute("SELECT chain_id, genesis, contract FROM identity").fetchone()
        blocks = {
            name: BlockRef(*_row(rest, int, str, str, int))
            for name, *rest in connection.execute("SELECT * FROM block").fetchall()
        }
        if identity is None or not {"settled", "tip"} <= blocks.keys():
            return None
        nodes = connection.execute("SELECT record FROM node").fetchall()
        events = connection.execute("SELECT block, block_hash, log_index, record FROM event").fetchall()
        synced = connection.execute("SELECT at FROM moment WHERE name = 'synced'").fetchone()
        contract = connection.execute("SELECT record FROM contract").fetchone()
        policy = connection.execute("SELECT record FROM policy").fetchone()
        return Checkpoint(
            ChainIdentity(int(identity[0]), identity[1], identity[2]),
            blocks["settled"],
            tuple(load_node(record) for (record,) in nodes),
            tuple(
                LoggedEvent(block, block_hash, index, load_event(record))
                for block, block_hash, index, record in (_row(row, int, str, int, str) for row in events)
            ),
            blocks["tip"],
            frozenset(int(token) for (token,) in connection.execute("SELECT token FROM witnessed")),
            None if synced is None else float(synced[0]),
            ContractState() if contract is None else load_contract(contract[0]),
            None if policy is None else load_policy(policy[0]),
        )

    def _move_aside(self, problem: str) -> None:
        self._close()
        aside = self._path.with_suffix(".corrupt")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        _log.error("store.rebuilt", problem=problem, moved_to=str(aside))

    def _append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        with _transaction(self._open()) as connection:
            connection.executemany(
                "DELETE FROM event WHERE block = ? AND log_index = ? AND token = ?",
                [_place(event) for event in dropped],
            )
            _write_events(connection, added)
            _write_block(connection, "tip", tip)
            _write_synced(connection, synced)

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        identity = checkpoint.identity
        with _transaction(self._open()) as connection:
            for table in ("node", "event", "block", "identity", "witnessed", "moment", "contract"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constant names
            connection.execute(
                "INSERT INTO identity VALUES (?, ?, ?)",
                (str(identity.chain_id), identity.genesis_hash, identity.contract),
            )
            connection.executemany(
                "INSERT INTO node VALUES (?, ?)", ((str(n.token_id), dump_node(n)) for n in checkpoint.nodes)
            )
            connection.execute("INSERT INTO contract VALUES (?)", (dump_contract(checkpoint.contract),))
            _write_events(connection, checkpoint.events)
            _write_block(connection, "settled", checkpoint.finalized)
            _write_block(connection, "tip", checkpoint.tip)
            _write_synced(connection, checkpoint.synced)
            connection.executemany(
                "INSERT INTO witnessed VALUES (?)", [(str(token),) for token in checkpoint.confirmed]
            )

    def _keep_policy(self, policy: GoodPolicy) -> None:
        with _transaction(self._open()) as connection:
            connection.execute("DELETE FROM policy")
            connection.execute("INSERT INTO policy VALUES (?)", (dump_policy(policy),))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _prepare(connection: sqlite3.Connection) -> None:
    """Check the file and create its tables. Raises `sqlite3.DatabaseError` if it is damaged."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the integrity check failed: {verdict}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in {0, VERSION}:
        raise sqlite3.DatabaseError(f"the file has version {version}, not {VERSION}")
    with _transaction(connection):
        schema = _LATER if version else _SCHEMA + _LATER
        for statement in filter(str.strip, schema.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


class _transaction:  # noqa: N801 - reads like closing() and suppress()
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK after an error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
        except sqlite3.Error:
            # A full disk can fail the commit and leave the transaction open, which would block all
            # later ones.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _place(event: LoggedEvent) -> tuple[int, int, str]:
    position, token = position_of(event)
    return position.block, position.log_index, str(token)


def _write_events(connection: sqlite3.Connection, events: Sequence[LoggedEvent]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?)",
        [(*_place(event), event.block_hash, dump_event(event.event)) for event in events],
    )


def _write_block(connection: sqlite3.Connection, name: str, block: BlockRef) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?)",
        (name, block.number, block.hash, block.parent_hash, block.timestamp),
    )


def _write_synced(connection: sqlite3.Connection, synced: float | None) -> None:
    if synced is not None:
        connection.execute("INSERT OR REPLACE INTO moment VALUES ('synced', ?)", (synced,))


def _row(values: Sequence[Any], *types: type) -> Sequence[Any]:
    """Return a row's values. Raises `FormatError` for other types, as in a damaged file."""
    if tuple(map(type, values)) != types:
        raise FormatError("a row has values of unexpected types")
    return values
