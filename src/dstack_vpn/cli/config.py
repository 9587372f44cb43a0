"""`config`: the backups of the wg-quick file, and rollbacks to them."""

import difflib
import json
import re

import click

from dstack_vpn.cli.completing import backups
from dstack_vpn.cli.options import with_settings
from dstack_vpn.config import Settings

_FILES = ("STATE_DIR", "INTERFACE", "WIREGUARD_CONFIG")


@click.group()
def config() -> None:
    """Show earlier configurations, roll back to one, or follow the registry again."""


@config.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*_FILES, of_daemon=True)
def list_(settings: Settings, *, as_json: bool) -> None:
    """List the backups, newest first."""
    from dstack_vpn.wiring import node as wiring

    archive = wiring.archive(settings)
    backups = [{"name": b.name, "bytes": b.path.stat().st_size} for b in archive.list()]
    if as_json:
        click.echo(json.dumps({"pinned": archive.is_pinned, "backups": backups}))
        return
    for backup in backups:
        click.echo(f"{backup['name']}  {backup['bytes']:>9} bytes")
    if archive.is_pinned:
        click.echo("A backup is pinned; 'dstack-vpn config resume' ends the rollback.")


@config.command(
    epilog="""\b
Example:
  dstack-vpn config show current"""
)
@click.argument("name", default="current", shell_complete=backups)
@with_settings(*_FILES, of_daemon=True)
def show(settings: Settings, name: str) -> None:
    """Show a backup, or the current file, without its private key."""
    from dstack_vpn.wiring import node as wiring

    click.echo(_redacted(wiring.archive(settings).read(name)), nl=False)


@config.command(
    epilog="""\b
Example:
  dstack-vpn config diff 20261123T121500.123Z"""
)
@click.argument("old", shell_complete=backups)
@click.argument("new", default="current", shell_complete=backups)
@with_settings(*_FILES, of_daemon=True)
def diff(settings: Settings, old: str, new: str) -> None:
    """Show the differences between two configurations."""
    from dstack_vpn.wiring import node as wiring

    archive = wiring.archive(settings)
    before, after = (_redacted(archive.read(name)).splitlines() for name in (old, new))
    for line in difflib.unified_diff(before, after, old, new, lineterm=""):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(line, fg=colour)


@config.command(
    epilog="""\b
Example:
  dstack-vpn config rollback 20261123T121500.123Z"""
)
@click.argument("name", shell_complete=backups)
@with_settings(*_FILES, of_daemon=True)
def rollback(settings: Settings, name: str) -> None:
    """Restrict the peers to those of a backup, without the keys that were revoked since.

    A running daemon follows within a second, and continues to remove revoked peers. It adds no
    other peers until 'config resume'.
    """
    from dstack_vpn.wiring import node as wiring
    from dstack_vpn.wiring.audit_log import record

    wiring.archive(settings).pin(name)
    record(settings, "admin.rollback", backup=name)
    click.echo(f"Pinned {name}. 'dstack-vpn config resume' follows the registry again.")


@config.command()
@with_settings(*_FILES, of_daemon=True)
def resume(settings: Settings) -> None:
    """End a rollback: follow the registry again."""
    from dstack_vpn.wiring import node as wiring
    from dstack_vpn.wiring.audit_log import record

    was = wiring.archive(settings).resume()
    record(settings, "admin.resume", was_pinned=was)
    click.echo("The node follows the registry again." if was else "No backup was pinned.")


def _redacted(text: str) -> str:
    return re.sub(r"(?im)^(\s*(?:private|preshared)key\s*=).*$", r"\1 (hidden)", text)
