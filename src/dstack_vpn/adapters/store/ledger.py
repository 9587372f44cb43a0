"""The audit log on disk: an append-only table, chained by `core.ledger`.

The daemon and an administrator's commands write to the same file; each append reads the end of the chain in
its own transaction. The table refuses updates, and deletions but for the oldest records that are past their
keeping: the last of those leaves its number and hash behind, so that the rest can still be followed.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.store.advice import advice
from dstack_vpn.core.ledger import ORIGIN, Anchor, Note, Record, check, seal
from dstack_vpn.errors import StoreError

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS record (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS anchor (only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER, hash TEXT);
CREATE TRIGGER IF NOT EXISTS record_stays BEFORE UPDATE ON record
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS record_ages BEFORE DELETE ON record
  WHEN OLD.number > (SELECT coalesce(max(number), 0) FROM anchor)
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""
_TIMEOUT: Final = 5.0
"""Seconds to wait for another process's append."""
_PAGE: Final = 1000
"""Records that are read, or dropped, at once."""


class SqliteLedger:
    """Implements `ports.Ledger`; synchronous, and short."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exists(self) -> bool:
        """Whether anything was ever recorded here."""
        return self._path.exists()

    def append(self, notes: Sequence[Note]) -> Anchor:
        """Record them in their order; returns the end of the chain. Raises `StoreError`."""
        with self._open() as connection, _transaction(connection):
            end = _end(connection)
            for note in notes:
                record = seal(end, note)
                body = json.dumps(dict(note.body), sort_keys=True)
                row = (record.number, note.at, note.kind, body, record.hash)
                connection.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?)", row)
                end = record.anchor
        return end

    def forget(self, *, before: float, largest: int) -> int:
        """Drop what is older than ``before`` (Unix seconds), and the oldest above ``largest`` bytes in all.

        Returns how many records went; raises `StoreError`.
        """
        with self._open() as connection, _transaction(connection):
            last = _last_to_forget(connection, before, largest)
            found = connection.execute("SELECT number, hash FROM record WHERE number = ?", (last,)).fetchone()
            if found is None:
                return 0
            connection.execute("INSERT OR REPLACE INTO anchor VALUES (1, ?, ?)", found)
            return connection.execute("DELETE FROM record WHERE number <= ?", (last,)).rowcount

    def read(self, *, after: int = 0) -> Iterator[Record]:
        """The records from the one after that number on; raises `StoreError`."""
        with self._open() as connection:
            while rows := connection.execute(
                "SELECT number, at, kind, body, hash FROM record WHERE number > ? ORDER BY number LIMIT ?",
                (after, _PAGE),
            ).fetchall():
                for number, at, kind, body, digest in rows:
                    yield Record(number, Note(at, kind, _body(body)), digest)
                    after = number

    def end(self) -> Anchor:
        """The newest place in the chain; raises `StoreError`."""
        with self._open() as connection:
            return _end(connection)

    def verify(self) -> tuple[Anchor, str | None]:
        """As `core.ledger.check`, over all that is kept; raises `StoreError`."""
        with self._open() as connection:
            start = _anchor(connection)
        return check(start, self.read())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=_TIMEOUT, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}{advice(error)}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _anchor(connection: sqlite3.Connection) -> Anchor:
    found = connection.execute("SELECT number, hash FROM anchor").fetchone()
    return ORIGIN if found is None else Anchor(*found)


def _end(connection: sqlite3.Connection) -> Anchor:
    found = connection.execute("SELECT number, hash FROM record ORDER BY number DESC LIMIT 1").fetchone()
    return _anchor(connection) if found is None else Anchor(*found)


def _last_to_forget(connection: sqlite3.Connection, before: float, largest: int) -> int:
    """The number of the newest record that is past its keeping; 0: none."""
    (aged,) = connection.execute(
        "SELECT coalesce(max(number), 0) FROM record WHERE at < ?", (before,)
    ).fetchone()
    (size,) = connection.execute("SELECT coalesce(sum(length(body) + 120), 0) FROM record").fetchone()
    if size <= largest:
        return int(aged)
    over, last = size - largest, 0
    for number, length in connection.execute("SELECT number, length(body) + 120 FROM record ORDER BY number"):
        over, last = over - length, number
        if over <= 0:
            break
    return max(int(aged), last)


def _body(text: str) -> dict[str, str | int | float | bool | None]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    # What is not ours is shown as it is: the chain's check tells that it was not written by us.
    return found if isinstance(found, dict) else {"damaged": text}
