"""The audit log on disk: an append-only table, chained by `core.observe.audit_chain`.

The daemon and an administrator's commands write to the same file. Each append reads the end of the
chain in its transaction. The table refuses updates, and deletions except by `forget`. A cut stores
the position of the last record of each removed run, so that the chain of the rest can still be
verified, and appends a record of the cut.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.store.advice import advice
from dstack_vpn.core.observe.audit_chain import ORIGIN, Anchor, AuditRecord, ChainedRecord, check, seal
from dstack_vpn.core.observe.audit_retention import (
    CUT,
    Kept,
    RecordRun,
    of_head,
    of_thinning,
    runs,
    too_much,
    unexplained,
)
from dstack_vpn.errors import StoreError

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS record (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS anchor (only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER, hash TEXT);
CREATE TRIGGER IF NOT EXISTS record_stays BEFORE UPDATE ON record
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
DROP TRIGGER IF EXISTS record_ages;
CREATE TABLE IF NOT EXISTS thinned (
  first INTEGER PRIMARY KEY, last INTEGER NOT NULL, hash TEXT NOT NULL, cut INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS record_goes BEFORE DELETE ON record
  WHEN OLD.number > (SELECT coalesce(max(number), 0) FROM anchor)
  AND NOT EXISTS (
    SELECT 1 FROM (SELECT last FROM thinned WHERE first <= OLD.number ORDER BY first DESC LIMIT 1)
    WHERE last >= OLD.number
  )
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""
_KNOWS_CUTS: Final = 1
"""SQLite's ``user_version`` from which each cut has a record."""
_ROW: Final = 120
"""Bytes of a record in addition to its body."""
_TIMEOUT: Final = 5.0
"""Seconds to wait for an append of another process."""
_PAUSE: Final = 0.01
"""Seconds between attempts while another process switches the file's journal."""
_PAGE: Final = 1000
"""Records that are read at once."""


class SqliteAuditLog:
    """See `ports.AuditLog`. Its calls are synchronous and short."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exists(self) -> bool:
        """True if the file exists."""
        return self._path.exists()

    def append(self, notes: Sequence[AuditRecord]) -> Anchor:
        """Append records in order, and return the end of the chain. Raises `StoreError`."""
        with self._open() as connection, _transaction(connection):
            for note in notes:
                _add(connection, note)
            return _end(connection)

    def forget(self, *, now: float, before: float, largest: int) -> int:
        """Cut records older than ``before`` (Unix seconds) and those beyond ``largest`` bytes.

        Records that unknown accounts and holders can cause are cut before our own decisions, as
        `core.observe.audit_retention` defines. Returns the number of removed records. Raises
        `StoreError`.
        """
        with self._open() as connection, _transaction(connection):
            _record_earlier_cuts(connection, now)
            (aged,) = connection.execute(
                "SELECT coalesce(max(number), 0) FROM record WHERE at < ?", (before,)
            ).fetchone()
            gone = _cut_head(connection, now, "age", aged)
            (size,) = connection.execute(
                "SELECT coalesce(sum(length(body) + ?), 0) FROM record", (_ROW,)
            ).fetchone()
            if size > largest:
                kept = _kept(connection)
                head, thin = too_much(kept, largest)
                gone += _cut_head(connection, now, "size", head)
                gone += _thin(connection, now, [record for record in kept if record.number in set(thin)])
        return gone

    def read(self, *, after: int = 0) -> Iterator[ChainedRecord]:
        """Yield the records after a number. Raises `StoreError`."""
        with self._open() as connection:
            while rows := connection.execute(
                "SELECT number, at, kind, body, hash FROM record WHERE number > ? ORDER BY number LIMIT ?",
                (after, _PAGE),
            ).fetchall():
                for number, at, kind, body, digest in rows:
                    yield ChainedRecord(number, AuditRecord(at, kind, _body(body)), digest)
                    after = number

    def end(self) -> Anchor:
        """Return the last position of the chain. Raises `StoreError`."""
        with self._open() as connection:
            return _end(connection)

    def verify(self) -> tuple[Anchor, str | None]:
        """Check all kept records with `core.observe.audit_chain.check`. Raises `StoreError`."""
        with self._open() as connection:
            start, thinned = _anchor(connection), _thinned(connection)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        end, problem = check(start, self.read(), {run.first: run.last for run in thinned})
        if problem is None and version >= _KNOWS_CUTS:
            problem = unexplained(start, thinned, self.cuts())
        return end, problem

    def cuts(self) -> list[ChainedRecord]:
        """Return the records of cuts. Raises `StoreError`."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT number, at, kind, body, hash FROM record WHERE kind = ? ORDER BY number", (CUT,)
            )
            return [
                ChainedRecord(number, AuditRecord(at, kind, _body(body)), digest)
                for number, at, kind, body, digest in rows
            ]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=_TIMEOUT, isolation_level=None)) as connection:
                _use_wal(connection)
                connection.executescript(_SCHEMA)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}{advice(error)}") from error


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log.

    SQLite's timeout does not apply while another process switches too, so the wait is our own.
    """
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


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


def _add(connection: sqlite3.Connection, note: AuditRecord) -> Anchor:
    record = seal(_end(connection), note)
    body = json.dumps(dict(note.body), sort_keys=True)
    row = (record.number, note.at, note.kind, body, record.hash)
    connection.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?)", row)
    return record.anchor


def _thinned(connection: sqlite3.Connection) -> list[RecordRun]:
    rows = connection.execute("SELECT first, last, hash, cut FROM thinned ORDER BY first")
    return [RecordRun(first, Anchor(last, digest), cut) for first, last, digest, cut in rows]


def _kept(connection: sqlite3.Connection) -> list[Kept]:
    rows = connection.execute(
        "SELECT number, kind, CASE WHEN kind = 'access.decided' AND json_valid(body)"
        " THEN json_extract(body, '$.token') END, length(body) + ? FROM record ORDER BY number",
        (_ROW,),
    )
    return [Kept(*row) for row in rows]


def _record_earlier_cuts(connection: sqlite3.Connection, now: float) -> None:
    """Append a record for the cuts of earlier releases, which wrote none."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < _KNOWS_CUTS:
        start = _anchor(connection)
        if start.number:
            _add(connection, AuditRecord(now, CUT, of_head("an earlier release", start.number, start, 0.0)))
        connection.execute(f"PRAGMA user_version = {_KNOWS_CUTS}")


def _cut_head(connection: sqlite3.Connection, now: float, by: str, last: int) -> int:
    """Cut all records up to a number. Return how many were removed."""
    found = connection.execute("SELECT number, hash FROM record WHERE number = ?", (last,)).fetchone()
    if found is None:
        return 0
    place = Anchor(*found)
    (since,) = connection.execute("SELECT at FROM record ORDER BY number LIMIT 1").fetchone()
    connection.execute("INSERT OR REPLACE INTO anchor VALUES (1, ?, ?)", place)
    gone = connection.execute("DELETE FROM record WHERE number <= ?", (last,)).rowcount
    # Keep the runs of cuts whose record is kept: its digest covers all of them.
    connection.execute("DELETE FROM thinned WHERE cut <= ?", (last,))
    _add(connection, AuditRecord(now, CUT, of_head(by, gone, place, since)))
    return gone


def _thin(connection: sqlite3.Connection, now: float, gone: Sequence[Kept]) -> int:
    """Cut records between others. Return how many were removed."""
    if not gone:
        return 0
    numbers = [(record.number,) for record in gone]
    places = (
        Anchor(*connection.execute("SELECT number, hash FROM record WHERE number = ?", number).fetchone())
        for number in numbers
    )
    made = list(runs(places, _end(connection).number + 1))
    connection.executemany(
        "INSERT INTO thinned VALUES (?, ?, ?, ?)", [(run.first, *run.last, run.cut) for run in made]
    )
    connection.executemany("DELETE FROM record WHERE number = ?", numbers)
    _add(connection, AuditRecord(now, CUT, of_thinning(gone, made)))
    return len(numbers)


def _body(text: str) -> dict[str, str | int | float | bool | None]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    # Damaged records are returned unchanged. The check of the hash chain reports them.
    return found if isinstance(found, dict) else {"damaged": text}
