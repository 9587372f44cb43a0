"""`contract minter` and `contract policy-administrator`: the accounts with a role."""

import asyncio
import json
from collections.abc import Sequence
from typing import Final

import click

from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.params import ACCOUNT
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.config import Settings

_as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_account: Final = click.argument("account", type=ACCOUNT)


@click.group()
def minter() -> None:
    """Manage the minters: the accounts that register, invite and revoke nodes.

    The contract's owner has the same rights without this role.
    """


@minter.command(
    "add",
    epilog="""\b
Example:
  dstack-vpn contract minter add 0x70997970C51812dc3A010C7d01b50e0d17dc79C8""",
)
@_account
@sends(*CHAIN)
def add_minter(sending: Sending, account: str) -> None:
    """Make an account a minter. Only the contract's owner can."""
    from dstack_vpn.wiring import contract

    receipt = sending.carry_out(lambda admin: contract.add_minter(admin, account))
    sending.report(f"{account.lower()} is a minter", receipt, account=account.lower())


@minter.command(
    "remove",
    epilog="""\b
Example:
  dstack-vpn contract minter remove 0x70997970C51812dc3A010C7d01b50e0d17dc79C8""",
)
@_account
@sends(*CHAIN)
def remove_minter(sending: Sending, account: str) -> None:
    """Remove the role from a minter. Only the contract's owner can.

    Its nodes stay. Its unused invitations become useless.
    """
    from dstack_vpn.wiring import contract

    receipt = sending.carry_out(lambda admin: contract.remove_minter(admin, account))
    sending.report(f"{account.lower()} is not a minter any more", receipt, account=account.lower())


@minter.command(
    "list",
    epilog="""\b
Example:
  dstack-vpn contract minter list --json""",
)
@_as_json
@with_settings(*CHAIN)
def list_minters(settings: Settings, *, as_json: bool) -> None:
    """List the minters. The contract's owner needs no role, and is not listed."""
    from dstack_vpn.wiring import contract

    accounts, block = asyncio.run(contract.minters(settings))
    _print("minters", accounts, block, as_json=as_json)


@click.group("policy-administrator")
def policy_administrator() -> None:
    """Manage the policy administrators: the accounts that set the policy.

    The contract's owner has the same right without this role.
    """


@policy_administrator.command(
    "add",
    epilog="""\b
Example:
  dstack-vpn contract policy-administrator add 0x70997970C51812dc3A010C7d01b50e0d17dc79C8""",
)
@_account
@sends(*CHAIN)
def add_policy_administrator(sending: Sending, account: str) -> None:
    """Make an account a policy administrator. Only the contract's owner can."""
    from dstack_vpn.wiring import contract

    receipt = sending.carry_out(lambda admin: contract.add_policy_administrator(admin, account))
    sending.report(f"{account.lower()} is a policy administrator", receipt, account=account.lower())


@policy_administrator.command(
    "remove",
    epilog="""\b
Example:
  dstack-vpn contract policy-administrator remove 0x70997970C51812dc3A010C7d01b50e0d17dc79C8""",
)
@_account
@sends(*CHAIN)
def remove_policy_administrator(sending: Sending, account: str) -> None:
    """Remove the role from a policy administrator. Only the contract's owner can."""
    from dstack_vpn.wiring import contract

    receipt = sending.carry_out(lambda admin: contract.remove_policy_administrator(admin, account))
    result = f"{account.lower()} is not a policy administrator any more"
    sending.report(result, receipt, account=account.lower())


@policy_administrator.command(
    "list",
    epilog="""\b
Example:
  dstack-vpn contract policy-administrator list --json""",
)
@_as_json
@with_settings(*CHAIN)
def list_policy_administrators(settings: Settings, *, as_json: bool) -> None:
    """List the policy administrators. The contract's owner needs no role, and is not listed."""
    from dstack_vpn.wiring import contract

    accounts, block = asyncio.run(contract.policy_administrators(settings))
    _print("policy_administrators", accounts, block, as_json=as_json)


def _print(name: str, accounts: Sequence[str], block: int, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"block": block, name: accounts}))
        return
    for account in accounts:
        click.echo(account)
