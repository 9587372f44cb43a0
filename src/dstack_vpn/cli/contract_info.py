"""`contract info`: the state of a registry contract, and the rights of each account."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.sending import CHAIN
from dstack_vpn.cli.tables import console
from dstack_vpn.config import Settings

if TYPE_CHECKING:
    from dstack_vpn.wiring.contract import Overview

_UNKNOWN: Final = "unknown: the contract does not have a list"
_MINTING: Final = "register, invite and revoke nodes; set their expiry, tags and routes"


@click.command(
    epilog="""\b
Examples:
  dstack-vpn contract info
  dstack-vpn contract info --network base --json"""
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*CHAIN, "START_BLOCK")
def info(settings: Settings, *, as_json: bool) -> None:
    """Show the registry contract: its version and state, and who can do what."""
    from dstack_vpn.wiring import contract

    found = asyncio.run(contract.overview(settings))
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    output = console()
    output.print(Layout(("field", "value"), [Row((name, value)) for name, value in _facts(found).items()]))
    output.print()
    output.print(Layout(("role", "account", "rights"), _rights(found)))


def _facts(found: "Overview") -> dict[str, Any]:
    """Return the contract's state by the names of the rows."""
    facts: dict[str, Any] = {
        "contract": found.contract,
        "version": found.abi if found.version is None else f"{found.version} ({found.abi})",
        "chain": found.chain_id,
        "block": found.block,
    }
    if found.nodes is not None:
        counts = found.nodes
        facts["nodes"] = (
            f"{counts.active} active, {counts.awaiting_key} without a key, {counts.revoked} revoked"
        )
    if found.paused is not None:
        facts["registrations"] = "paused" if found.paused else "allowed"
    if found.revision is not None:
        facts["revision"] = found.revision
    if found.tags is not None:
        facts["tags"] = found.tags
        facts["policy"] = found.policy_hash or "none"
    return facts


def _rights(found: "Overview") -> list[Row]:
    """Return a row for each account with a role."""
    rows = [Row(("owner", found.owner or "unknown: the contract does not name it", _rights_of_owner(found)))]
    if found.pending_owner is not None:
        rows.append(Row(("pending owner", found.pending_owner, "accept the contract")))
    if found.version is not None:
        rows += _role("minter", found.minters, _minting(found))
    if found.version == 2:
        rows += _role("policy administrator", found.policy_administrators, "set the policy")
    change = "set its key and endpoint; transfer it" if found.version is not None else "transfer it"
    return [*rows, Row(("holder", "the holder of each node", change))]


def _rights_of_owner(found: "Overview") -> str:
    if found.version is None:
        return "register and revoke nodes; transfer the contract"
    more = "define tags; choose minters and policy administrators" if found.version == 2 else "choose minters"
    below = f"all rights of minters{' and policy administrators' if found.version == 2 else ''}"
    return f"{more}; pause registrations; transfer the contract; {below}"


def _minting(found: "Overview") -> str:
    return _MINTING if found.version == 2 else "register and revoke nodes; set their expiry"


def _role(role: str, accounts: tuple[str, ...] | None, rights: str) -> list[Row]:
    if accounts is None:
        return [Row((role, _UNKNOWN, rights))]
    return [Row((role, account, rights)) for account in accounts] or [Row((role, "none", rights))]
