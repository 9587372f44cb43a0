"""`contract`: the deployment and the administration of the registry contract."""

import asyncio
from typing import TYPE_CHECKING, Final

import click

from dstack_vpn.cli.contract_info import info
from dstack_vpn.cli.contract_migrating import migrate
from dstack_vpn.cli.contract_roles import minter, policy_administrator
from dstack_vpn.cli.params import ACCOUNT
from dstack_vpn.cli.sending import CHAIN, Sending, check_can_ask, confirm, sends
from dstack_vpn.core.model import ZERO_ADDRESS

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import Administrator, Receipt

_yes: Final = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


@click.group()
def contract() -> None:
    """Deploy and administer the registry contract."""


for command in (info, migrate, minter, policy_administrator):
    contract.add_command(command)


@contract.command(
    epilog="""\b
Examples:
  CONTRACT_PRIVATE_KEY_FILE=deployer.key dstack-vpn contract deploy --network base-sepolia
  dstack-vpn contract deploy --owner 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 --json"""
)
@click.option("--owner", type=ACCOUNT, help="The contract's owner; default: the signing account.")
@sends("NETWORK", "RPC_URL", "CHAIN_ID", fallback={"CONTRACT_ADDRESS": ZERO_ADDRESS})
def deploy(sending: Sending, owner: str | None) -> None:
    """Deploy a registry contract; CONTRACT_PRIVATE_KEY signs and pays."""
    receipt = sending.carry_out(lambda admin: admin.deploy(owner))
    sending.report(
        f"The registry is deployed: CONTRACT_ADDRESS={receipt.contract}",
        receipt,
        address=receipt.contract,
        chain_id=sending.settings.chain_id,
    )


@contract.command(
    epilog="""\b
Example:
  dstack-vpn contract pause"""
)
@sends(*CHAIN)
def pause(sending: Sending) -> None:
    """Stop registrations and invitations. Only the contract's owner can.

    Nodes keep their access, and can be changed and revoked.
    """
    from dstack_vpn.wiring import contract as wiring

    sending.report("Registrations are paused", sending.carry_out(wiring.pause), paused=True)


@contract.command(
    epilog="""\b
Example:
  dstack-vpn contract unpause"""
)
@sends(*CHAIN)
def unpause(sending: Sending) -> None:
    """Allow registrations again. Only the contract's owner can."""
    from dstack_vpn.wiring import contract as wiring

    sending.report("Registrations are allowed", sending.carry_out(wiring.unpause), paused=False)


@contract.command(
    "transfer-ownership",
    epilog="""\b
Examples:
  dstack-vpn contract transfer-ownership 0x70997970C51812dc3A010C7d01b50e0d17dc79C8
  dstack-vpn contract transfer-ownership --withdraw""",
)
@click.argument("account", type=ACCOUNT, required=False)
@click.option("--withdraw", is_flag=True, help="Withdraw an offer that was not accepted yet.")
@_yes
@sends(*CHAIN)
def transfer_ownership(sending: Sending, account: str | None, *, withdraw: bool, yes: bool) -> None:
    """Offer the contract to another account. Only the contract's owner can.

    The owner stays the same until the other account accepts with 'accept-ownership'. On the
    deployed contract, the transfer takes effect at once, so it needs a confirmation.
    """
    from dstack_vpn.wiring import contract as wiring

    if (account is None) is not withdraw:
        raise click.UsageError("expected either an account or --withdraw")
    in_two_steps = account is None or asyncio.run(wiring.needs_acceptance(sending.settings))
    if not in_two_steps and sending.sends:
        check_can_ask(yes=yes)
        confirm(f"Transfer the contract to {account}, without its acceptance?", yes=yes)
    receipt = sending.carry_out(lambda admin: wiring.transfer_ownership(admin, account))
    if account is None:
        sending.report("The offer is withdrawn", receipt, pending_owner=None)
    elif in_two_steps:
        result = f"The contract is offered to {account.lower()}, who must accept it"
        sending.report(result, receipt, pending_owner=account.lower())
    else:
        sending.report(f"The contract belongs to {account.lower()}", receipt, owner=account.lower())


@contract.command(
    "accept-ownership",
    epilog="""\b
Example:
  CONTRACT_PRIVATE_KEY_FILE=next-owner.key dstack-vpn contract accept-ownership""",
)
@sends(*CHAIN)
def accept_ownership(sending: Sending) -> None:
    """Accept the contract. Only the account to which the owner has offered it can."""
    from dstack_vpn.wiring import contract as wiring

    async def work(admin: "Administrator") -> "tuple[Receipt, str]":
        return await wiring.accept_ownership(admin), admin.signer.address

    receipt, owner = sending.carry_out(work)
    sending.report(f"The contract belongs to {owner}", receipt, owner=owner)
