"""`audit verify` reports the records that are present and those that were cut."""

import json
from pathlib import Path

import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn.adapters.store.audit_log import SqliteAuditLog
from dstack_vpn.core.observe.audit_chain import AuditRecord, Body

STATE = "STATE_DIR"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteAuditLog:
    monkeypatch.setenv(STATE, str(tmp_path))
    tmp_path.chmod(0o700)
    made = SqliteAuditLog(tmp_path / "audit.sqlite")
    made.append([AuditRecord(86_400.0 * n, "node.started", {}) for n in range(4)])
    return made


def test_a_whole_log_is_complete(cli: Cli, ledger: SqliteAuditLog) -> None:
    ran = cli("audit", "verify")
    assert ran.code == 0
    assert ran.out.splitlines() == [f"sound, up to {ledger.end()}", "complete from record 1 on"]


def test_what_a_holder_pushed_out_is_told(cli: Cli, ledger: SqliteAuditLog) -> None:
    event: Body = {"event": "endpoint updated", "token": 6}
    ledger.append([AuditRecord(400_000.0 + n, "chain.event", event) for n in range(500)])
    ledger.append([AuditRecord(500_000.0, "config.pin", {"peers": 3})])
    gone = ledger.forget(now=600_000.0, before=86_401.0, largest=20_000)
    ran = cli("audit", "verify")
    assert ran.code == 0
    said = ran.out.splitlines()
    assert said[1] == "begins with record 3, of 1970-01-03T00:00:00Z"
    assert said[2].endswith("2 records up to number 2, by age [audit.cut]")
    assert said[3].endswith(f"by size (chain.event {gone - 2}) [audit.cut]")
    document = json.loads(cli("audit", "verify", "--json").out)
    assert (document["sound"], document["begins"]) == (True, 3)
    assert [cut["body"]["by"] for cut in document["cuts"]] == ["age", "size"]
    # A record that was noted before and cut since is reported as cut: not present, and not forged.
    ran = cli("audit", "verify", "--contains", f"10:{'0' * 64}")
    assert (ran.code, "record 10 has been cut" in ran.err) == (75, True)
    assert cli("audit", "verify", "--contains", document["end"]).code == 0
    assert cli("audit", "verify", "--contains", f"3:{'0' * 64}").code == 1
