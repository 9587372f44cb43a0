"""`keygen` and `pubkey`: WireGuard keys in the format of `wg genkey` and `wg pubkey`."""

import base64
import secrets
import sys

import click

from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey
from dstack_vpn.core.wireguard.x25519 import clamp, derive
from dstack_vpn.errors import AdminError, FormatError


@click.command(
    epilog="""\b
Example:
  umask 077; dstack-vpn keygen > /etc/dstack-vpn/wireguard.key"""
)
def keygen() -> None:
    """Print a new private key."""
    click.echo(base64.b64encode(clamp(secrets.token_bytes(KEY_LENGTH)).reveal()).decode("ascii"))


@click.command(
    epilog="""\b
Example:
  dstack-vpn pubkey < /etc/dstack-vpn/wireguard.key"""
)
def pubkey() -> None:
    """Print the public key of the private key on standard input."""
    try:
        key = PrivateKey.parse(sys.stdin.read(4096).strip())
    except FormatError as error:
        raise AdminError(f"standard input: {error}") from error
    click.echo(str(derive(key)))
