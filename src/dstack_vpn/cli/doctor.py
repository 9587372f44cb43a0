"""`doctor`: checks of this machine, the chain and the paths to peers."""

import asyncio
import json
import shutil
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from dstack_vpn.cli.http import fetch
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.errors import AdminError

if TYPE_CHECKING:
    from dstack_vpn.core.observe.check import Check

_INDENT: Final = " " * 6
_COLOURS: Final = {"pass": "green", "warn": "yellow", "fail": "red"}


@click.command(
    epilog="""\b
Examples:
  dstack-vpn doctor
  dstack-vpn doctor --json | jq '.checks[] | select(.status != "pass")'"""
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(of_daemon=True)
@click.pass_context
def doctor(ctx: click.Context, settings: Settings, *, as_json: bool) -> None:
    """Check this machine, the chain, the node's registration and the paths to peers.

    The checks change nothing. Each line has the result (pass, warn or fail) and the remedy. The
    exit code is 1 if any check failed.
    """
    from dstack_vpn.wiring.doctor import examine

    show = (lambda check: None) if as_json else _show
    checks = asyncio.run(examine(settings, _daemon(settings), show))
    count = {status: sum(check.status == status for check in checks) for status in _COLOURS}
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks], **count}))
    else:
        click.echo(f"{count['pass']} passed, {count['warn']} warnings, {count['fail']} failed")
    ctx.exit(1 if count["fail"] else 0)


def _daemon(settings: Settings) -> dict[str, Any]:
    """Return the running daemon's statistics; empty if no daemon runs."""
    if not settings.health_check_port:
        return {}
    try:
        found = fetch(settings, "/stats")
    except AdminError:
        return {}
    return found if "peers" in found else {}


def _show(check: "Check") -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    first, *rest = check_lines(check, width)
    click.echo(first.replace(check.status, click.style(check.status, _COLOURS[check.status]), 1))
    for line in rest:
        click.echo(line)


def check_lines(check: "Check", width: int | None) -> list[str]:
    """Return a check as lines of at most ``width`` columns, if its words allow; None: unbroken."""
    parts = [("", f"{check.status}  {printable(check.name)}: {printable(check.found)}")]
    if check.advice:
        parts.append((_INDENT, f"→ {printable(check.advice)}"))
    if width is None:
        return [indent + text for indent, text in parts]
    return [
        line
        for indent, text in parts
        for line in textwrap.wrap(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=f"{_INDENT}  " if indent else _INDENT,
            break_on_hyphens=False,
        )
    ]
