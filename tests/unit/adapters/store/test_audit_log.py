"""The audit log on disk: concurrent writers, retention and detection of tampering."""

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dstack_vpn.adapters.store.audit_log import SqliteAuditLog
from dstack_vpn.core.observe.audit_chain import AuditRecord
from dstack_vpn.errors import StoreError

ALL = 1 << 40


def note(at: float, what: str = "peer.set") -> AuditRecord:
    return AuditRecord(at, what, {"node": "a", "at_all": at})


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteAuditLog:
    return SqliteAuditLog(tmp_path / "state" / "audit.sqlite")


def test_what_was_written_is_read_again_by_its_owner_only(ledger: SqliteAuditLog, tmp_path: Path) -> None:
    assert not ledger.exists
    end = ledger.append([note(1.0), note(2.0, "admin.rollback")])
    assert [(r.number, r.note) for r in ledger.read()] == [(1, note(1.0)), (2, note(2.0, "admin.rollback"))]
    assert ledger.end() == end
    assert ledger.verify() == (end, None)
    mode = (tmp_path / "state" / "audit.sqlite").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_several_writers_make_one_chain(ledger: SqliteAuditLog) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.append([note(n), note(n + 0.5)]), range(25)))
    assert ledger.verify() == (ledger.end(), None)
    assert ledger.end().number == 50


def test_an_append_waits_for_another_process_that_creates_the_file(
    ledger: SqliteAuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "audit.sqlite"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr("dstack_vpn.adapters.store.audit_log.time.sleep", sleep)
        assert ledger.append([note(1.0)]).number == 1
    assert len(pauses) == 3


def test_the_oldest_go_by_age_and_by_size_and_the_rest_stays_sound(ledger: SqliteAuditLog) -> None:
    ledger.append([note(n) for n in range(100)])
    first_ten = list(ledger.read())[9].hash
    assert ledger.forget(now=200.0, before=10.0, largest=ALL) == 10
    assert ledger.forget(now=201.0, before=10.0, largest=ALL) == 0
    (cut,) = ledger.cuts()
    assert cut.note.body == {"by": "age", "records": 10, "through": 10, "from": 0.0, "hash": first_ten}
    assert ledger.verify() == (cut.anchor, None)
    assert ledger.forget(now=202.0, before=0.0, largest=2_000) > 70
    kept = list(ledger.read())
    assert 5 < len(kept) < 20
    assert [record.note.body["by"] for record in ledger.cuts()] == ["age", "size"]
    assert ledger.verify() == (ledger.end(), None)
    assert ledger.forget(now=300.0, before=299.0, largest=ALL) == len(kept)
    assert ledger.append([note(301)]).number == 104
    assert ledger.verify() == (ledger.end(), None)


def decided(at: float, token: int) -> AuditRecord:
    return AuditRecord(at, "access.decided", {"token": token, "granted": False, "reason": "revoked"})


def flood(ledger: SqliteAuditLog, since: float, count: int = 2000) -> None:
    ledger.append(
        [
            AuditRecord(since + n, "chain.event", {"event": "endpoint updated", "token": 6})
            for n in range(count)
        ]
    )


def test_a_holder_pushes_no_decision_out_by_events_and_the_cut_is_told(ledger: SqliteAuditLog) -> None:
    own = [
        AuditRecord(0.0, "node.started", {}),
        decided(1.0, 7),
        AuditRecord(2.0, "key.changed", {"key": "k"}),
    ]
    ledger.append(own)
    for moment in range(5):
        flood(ledger, 10.0 + moment)
        ledger.append([decided(20.0 + moment, moment)])
        assert ledger.forget(now=100.0 + moment, before=0.0, largest=50_000) > 1000
        assert ledger.verify() == (ledger.end(), None)
    kept = [record.note for record in ledger.read()]
    assert kept[:3] == own
    assert [n.body["token"] for n in kept if n.kind == "access.decided"] == [7, 0, 1, 2, 3, 4]
    told = ledger.cuts()
    assert {record.note.body["by"] for record in told} == {"size"}
    gone = sum(int(record.note.body["records"] or 0) for record in told)
    assert gone + len(kept) == ledger.end().number
    assert all("chain.event" in str(record.note.body["kinds"]) for record in told)


def test_a_holder_pushes_no_other_tokens_decision_out_by_flipping_its_own(ledger: SqliteAuditLog) -> None:
    ledger.append([decided(1.0, 7)])
    ledger.append([decided(2.0 + n, 6) for n in range(3000)])
    ledger.append([decided(9000.0, 8)])
    ledger.forget(now=9001.0, before=0.0, largest=200_000)
    about = [record.note.body["token"] for record in ledger.read() if record.note.kind == "access.decided"]
    assert (about[0], about[-1]) == (7, 8)
    assert 500 <= about.count(6) < 3000
    assert ledger.verify() == (ledger.end(), None)


def test_decisions_alone_are_cut_from_the_oldest_on(ledger: SqliteAuditLog) -> None:
    ledger.append([decided(float(n), n) for n in range(1000)])
    ledger.forget(now=2000.0, before=0.0, largest=50_000)
    about = [record.note.body["token"] for record in ledger.read() if record.note.kind == "access.decided"]
    assert about == list(range(1000 - len(about), 1000))
    assert 100 < len(about) < 300
    assert ledger.verify() == (ledger.end(), None)
    ledger.forget(now=2001.0, before=999.0, largest=50_000)
    assert ledger.verify() == (ledger.end(), None)


_GAP = "INSERT INTO thinned SELECT number, number, hash, {cut} FROM record WHERE number = 10"
_GONE = "DELETE FROM record WHERE number = 10"
FORGERIES = {
    "a head": "INSERT OR REPLACE INTO anchor SELECT 1, number, hash FROM record WHERE number = 8;"
    "DELETE FROM record WHERE number <= 8",
    "another anchor": "UPDATE anchor SET number = 2",
    "a gap without its place": "DELETE FROM thinned WHERE first = (SELECT min(first) FROM thinned)",
    "another hash": "UPDATE thinned SET hash = substr(hash, 2) || '0'",
    "a gap that leads back": "UPDATE thinned SET last = first - 1",
    "no record of a cut": "DELETE FROM record WHERE kind = 'audit.cut'",
    "a gap of no cut": f"{_GAP.format(cut=3000)};{_GONE}",
    "a gap more in a cut": f"{_GAP.format(cut='(SELECT max(cut) FROM thinned)')};{_GONE}",
}


@pytest.mark.parametrize("statement", FORGERIES.values(), ids=FORGERIES)
def test_a_cut_that_no_record_tells_of_is_not_sound(
    ledger: SqliteAuditLog, tmp_path: Path, statement: str
) -> None:
    ledger.append([decided(float(n), n) for n in range(20)])
    flood(ledger, 30.0)
    ledger.append([decided(3000.0, 1)])
    ledger.forget(now=4000.0, before=3.0, largest=50_000)
    ledger.append([decided(4001.0, 2)])
    assert ledger.verify()[1] is None
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        connection.execute("DROP TRIGGER record_goes")
        connection.executescript(statement)
    assert ledger.verify()[1] is not None


def test_a_cut_of_an_earlier_release_is_told_from_now_on(ledger: SqliteAuditLog, tmp_path: Path) -> None:
    ledger.append([note(float(n)) for n in range(10)])
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        connection.execute("INSERT INTO anchor SELECT 1, number, hash FROM record WHERE number = 4")
        connection.execute("DELETE FROM record WHERE number <= 4")
    assert ledger.verify()[1] is None
    ledger.forget(now=20.0, before=0.0, largest=ALL)
    (cut,) = ledger.cuts()
    assert (cut.note.body["by"], cut.note.body["through"]) == ("an earlier release", 4)
    assert ledger.verify() == (ledger.end(), None)


def test_the_table_refuses_changes(ledger: SqliteAuditLog, tmp_path: Path) -> None:
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
    ledger: SqliteAuditLog, tmp_path: Path, statement: str, problem: str
) -> None:
    ledger.append([note(1.0), note(2.0), note(3.0)])
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        connection.execute("DROP TRIGGER record_stays")
        connection.execute("DROP TRIGGER record_goes")
        connection.execute(statement)
    assert ledger.verify()[1] == problem


def test_a_body_that_is_nested_without_end_is_shown_as_it_is(ledger: SqliteAuditLog, tmp_path: Path) -> None:
    ledger.append([note(1.0)])
    with sqlite3.connect(tmp_path / "state" / "audit.sqlite") as connection:
        connection.execute("DROP TRIGGER record_stays")
        connection.execute("UPDATE record SET body = ?", ("[" * 100_000,))
    (record,) = ledger.read()
    assert record.note.body == {"damaged": "[" * 100_000}


def test_a_file_that_is_none_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"audit\.sqlite"):
        SqliteAuditLog(tmp_path / "audit.sqlite").append([note(1.0)])
