"""`audit`: display, verification and export of the audit log."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.tables import console
from dstack_vpn.cli.words import describe
from dstack_vpn.config import Settings
from dstack_vpn.core.observe.audit_chain import ChainedRecord
from dstack_vpn.errors import AdminError

if TYPE_CHECKING:
    from dstack_vpn.wiring.audit_log import SqliteAuditLog

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def audit() -> None:
    """Show, verify or export the audit log.

    It is a hash chain of all decisions, peer changes, plans, rollbacks and administrators' actions.
    """


@audit.command(
    epilog="""\b
Examples:
  dstack-vpn audit show --last 20
  dstack-vpn audit show --node web-1 --kind peer"""
)
@click.option(
    "--last", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Number of records."
)
@click.option("--node", shell_complete=nodes, help="Only records of this node.")
@click.option("--kind", help="Only records of a kind, or with its beginning: access.decided, or peer.")
@_as_json
@with_settings("STATE_DIR", of_daemon=True)
def show(settings: Settings, *, last: int, node: str | None, kind: str | None, as_json: bool) -> None:
    """Show the newest records."""
    found = [r for r in _audit_log(settings).read() if _fits(r, node, kind)][-last:]
    if as_json:
        click.echo(json.dumps([_plain(record) for record in found]))
        return
    rows = [Row((r.number, _second(r.note.at), describe(r.note.kind, r.note.body))) for r in found]
    console().print(Layout(("number", "when", "event"), rows))


@audit.command(
    epilog="""\b
Examples:
  dstack-vpn audit verify
  dstack-vpn audit verify --contains 4711:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"""
)
@click.option("--contains", metavar="NUMBER:HASH", help="An earlier place in the log, noted elsewhere.")
@_as_json
@with_settings("STATE_DIR", of_daemon=True)
@click.pass_context
def verify(ctx: click.Context, settings: Settings, *, contains: str | None, as_json: bool) -> None:
    """Check that no record was altered, removed or inserted.

    The exit code is 1 if one was, and 75 if --contains names a record that has been cut since.

    The command prints the first record of the log, and each cut by age or size, which the log
    records. A chain can't show that its end is missing: note the printed place outside of this
    machine, and pass it with --contains the next time.
    """
    audit_log = _audit_log(settings)
    end, problem = audit_log.verify()
    first, cuts = next(audit_log.read(), None), [_plain(record) for record in audit_log.cuts()]
    code = 0 if problem is None else 1
    if problem is None and contains is not None:
        code, problem = _compared(audit_log, contains)
    if as_json:
        begins = None if first is None else first.number
        sound = None if code == 75 else code == 0
        result = {"sound": sound, "problem": problem, "end": str(end), "begins": begins, "cuts": cuts}
        click.echo(json.dumps(result))
    elif problem is None:
        click.echo(f"sound, up to {end}")
        for line in _completeness(first, cuts):
            click.echo(line)
    else:
        state = "UNKNOWN" if code == 75 else "NOT SOUND"
        click.echo(f"{state}: {problem}. Sound up to {end}", err=True)
    ctx.exit(code)


@audit.command(
    epilog="""\b
Example:
  dstack-vpn audit export > audit.jsonl"""
)
@click.option("--after", type=click.IntRange(0), default=0, help="Only records with higher numbers.")
@with_settings("STATE_DIR", of_daemon=True)
def export(settings: Settings, *, after: int) -> None:
    """Write all records as JSON lines, each with its hash."""
    for record in _audit_log(settings).read(after=after):
        click.echo(json.dumps(_plain(record)))


def _audit_log(settings: Settings) -> "SqliteAuditLog":
    from dstack_vpn.wiring.audit_log import audit_log_of

    audit_log = audit_log_of(settings)
    if not audit_log.exists:
        raise AdminError(f"no audit log in {settings.state_dir}: set STATE_DIR to the daemon's")
    return audit_log


def _completeness(first: ChainedRecord | None, cuts: list[dict[str, Any]]) -> Iterator[str]:
    """Describe the existing part of the log, and the cuts."""
    if first is not None and not cuts and first.number == 1:
        yield "complete from record 1 on"
        return
    if first is not None:
        yield f"begins with record {first.number}, of {_second(first.note.at)}"
    for cut in cuts:
        yield f"cut on {cut['time'][:10]}: {describe(cut['kind'], cut['body'])}"


def _compared(audit_log: "SqliteAuditLog", place: str) -> tuple[int, str | None]:
    """Compare a noted place with the log; return an exit code and the problem, or None."""
    number, _, digest = place.partition(":")
    if not number.isascii() or not number.isdigit():
        raise click.UsageError("--contains: expected NUMBER:HASH, as 'audit verify' prints it")
    records: Iterator[ChainedRecord] = audit_log.read(after=int(number) - 1)
    record = next(records, None)
    if record is not None and record.number > int(number):
        return 75, f"record {int(number)} has been cut, so {place} can't be compared: note a newer place"
    if record is not None and str(record.anchor) == f"{int(number)}:{digest}":
        return 0, None
    return 1, f"it does not contain {place}: the log was truncated or rewritten"


def _fits(record: ChainedRecord, node: str | None, kind: str | None) -> bool:
    by_kind = kind is None or record.note.kind == kind or record.note.kind.startswith(f"{kind}.")
    return by_kind and (node is None or record.note.body.get("node") == node)


def _plain(record: ChainedRecord) -> dict[str, Any]:
    note = record.note
    return {
        "number": record.number,
        "time": _moment(note.at),
        "at": note.at,
        "kind": note.kind,
        "body": dict(note.body),
        "hash": record.hash,
    }


def _second(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
