"""`contract migrate`: the registration of a registry's members in another one."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dstack_vpn.cli.node_enrolling import facts, summary
from dstack_vpn.cli.params import ACCOUNT
from dstack_vpn.cli.sending import Sending, sends
from dstack_vpn.cli.text import printable
from dstack_vpn.core.model import ZERO_ADDRESS

if TYPE_CHECKING:
    from dstack_vpn.core.chain.migration import LeftOut


@click.command(
    epilog="""\b
Examples:
  dstack-vpn contract migrate --from 0x37d2... --to 0x5fbd... --dry-run
  dstack-vpn contract migrate --from 0x37d2... --to 0x5fbd... --json"""
)
@click.option("--from", "old", required=True, type=ACCOUNT, help="The old registry, of any version.")
@click.option("--to", "new", required=True, type=ACCOUNT, help="The new registry, of version 2.")
@click.option(
    "--leave-out", is_flag=True, help="Leave out members that the new registry would refuse; list them."
)
@sends("NETWORK", "RPC_URL", "CHAIN_ID", "START_BLOCK", fallback={"CONTRACT_ADDRESS": ZERO_ADDRESS})
def migrate(sending: Sending, old: str, new: str, *, leave_out: bool) -> None:
    """Register the members of an old registry in a new one, in few transactions.

    Each member keeps its holder, id, key, endpoint, tags, routes and expiry. The tags must be
    defined in the new registry. Revoked and expired nodes, and those without a key, are left out.
    Tokens have new numbers if the old registry has such nodes, and so do tunnel addresses. A second
    run continues an interrupted one.
    """
    from dstack_vpn.wiring import enrolment, migration

    if old.lower() == new.lower():
        raise click.UsageError("--from and --to name the same registry")
    source = migration.settings_of(sending.settings, old)
    sending = replace(sending, settings=migration.settings_of(sending.settings, new))
    found = asyncio.run(migration.members_of(source))
    if not leave_out:
        migration.check_refused(found)
    missing = [*found.left_out, *found.refused]
    for each in missing:
        name = printable(each.node_id or "a node")
        click.echo(f"left out: {name} (token {each.token}): {printable(each.reason)}", err=True)
    wanted = [each for _, each in found.wanted]
    done = sending.carry_out(lambda admin: enrolment.enrol(admin, wanted))
    tokens = {each.node_id: token for token, each in found.wanted}
    moved = [(tokens[node_id], token) for token, node_id in done.registered if tokens[node_id] != token]
    if moved:
        click.echo(f"nodes with another token, and so with other tunnel addresses: {len(moved)}", err=True)
    numbers = [{"old_token": before, "token": after} for before, after in moved]
    sending.report_all(summary(done), done.receipts, **facts(done), moved=numbers, left_out=_as_json(missing))


def _as_json(missing: "Iterable[LeftOut]") -> list[dict[str, Any]]:
    return [each._asdict() for each in missing]
