"""The audit log on disk: several writers, keeping and forgetting, and what somebody did to the file."""

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstack_vpn.adapters.store.ledger import SqliteLedger
from dstack_vpn.core.ledger import Note
from dstack_vpn.errors import StoreError

ALL = 1 << 40


def note(at: float, what: str = "peer.set") -> Note:
    return Note(at, what, {"node": "a", "at_all": at})


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "state" / "audit.sqlite")


def test_what_was_written_is_read_again_by_its_owner_only(ledger: SqliteLedger, tmp_path: Path) -> None:
    assert not ledger.exists
    end = ledger.append([note(1.0), note(2.0, "admin.rollback")])
    assert [(r.number, r.note) for r in ledger.read()] == [(1, note(1.0)), (2, note(2.0, "admin.rollback"))]
    assert ledger.end() == end
    assert ledger.verify() == (end, None)
    mode = (tmp_path / "state" / "audit.sqlite").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_several_writers_make_one_chain(ledger: SqliteLedger) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.append([note(n), note(n + 0.5)]), range(25)))
    assert ledger.verify() == (ledger.end(), None)
    assert ledger.end().number == 50


def test_the_oldest_go_by_age_and_by_size_and_the_rest_stays_sound(ledger: SqliteLedger) -> None:
    ledger.append([note(n) for n in range(100)])
    end = ledger.end()
    assert ledger.forget(before=10.0, largest=ALL) == 10
    assert ledger.forget(before=10.0, largest=ALL) == 0
    assert ledger.verify() == (end, None)
    assert ledger.forget(before=0.0, largest=2_000) > 70
    kept = list(ledger.read())
    assert 5 < len(kept) < 20
    assert ledger.verify() == (end, None)
    assert ledger.forget(before=1000.0, largest=ALL) == len(kept)
    assert ledger.append([note(101)]).number == 101
    assert ledger.verify()[1] is None


def test_the_table_refuses_changes(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append([note(1.0), note(2.0)])
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        for statement in ("UPDATE record SET body = '{}'", "DELETE FROM record WHERE number = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ('UPDATE record SET body = \'{"node": "b"}\' WHERE number = 2', "record 2 is not what was written"),
        ("UPDATE record SET body = 'no JSON' WHERE number = 2", "record 2 is not what was written"),
        ("UPDATE record SET at = 9 WHERE number = 1", "record 1 is not what was written"),
        ("DELETE FROM record WHERE number = 2", "record 2 is missing: 3 follows 1"),
        ("DELETE FROM record WHERE number = 1", "record 1 is missing: 2 follows 0"),
    ],
)
def test_whoever_gets_around_that_is_found_out(
    ledger: SqliteLedger, tmp_path: Path, statement: str, problem: str
) -> None:
    ledger.append([note(1.0), note(2.0), note(3.0)])
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        connection.execute("DROP TRIGGER record_stays")
        connection.execute("DROP TRIGGER record_ages")
        connection.execute(statement)
    assert ledger.verify()[1] == problem


def test_a_body_that_is_nested_without_end_is_shown_as_it_is(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append([note(1.0)])
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        connection.execute("DROP TRIGGER record_stays")
        connection.execute("UPDATE record SET body = ?", ("[" * 100_000,))
    (record,) = ledger.read()
    assert record.note.body == {"damaged": "[" * 100_000}


def test_a_file_that_is_none_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"audit\.sqlite"):
        SqliteLedger(tmp_path / "audit.sqlite").append([note(1.0)])
