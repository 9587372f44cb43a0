"""`contract`: the deployment of the registry contract."""

import click

from dstack_vpn.cli.params import ACCOUNT
from dstack_vpn.cli.sending import Sending, sends
from dstack_vpn.core.model import ZERO_ADDRESS


@click.group()
def contract() -> None:
    """Deploy the registry contract."""


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
