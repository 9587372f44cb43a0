"""The commands of `node` that send a transaction."""

import asyncio
from typing import TYPE_CHECKING

import click

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.node_reading import date, find
from dstack_vpn.cli.params import (
    ACCOUNT,
    CONTRACT_ENDPOINT,
    ENDPOINT,
    KEY,
    MOMENT,
    NAME,
    NODE_ID,
    TOKEN_URI,
    Moment,
)
from dstack_vpn.cli.sending import CHAIN, Sending, check_can_ask, confirm, sends
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import NodeName, Receipt

_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


@click.command(
    epilog="""\b
Examples:
  dstack-vpn node register web-1 --to 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 \\
      --public-key "$(dstack-vpn pubkey < wireguard.key)"
  dstack-vpn node register db --to 0x7099... --public-key 'nOKU...=' --endpoint db.example.org:51820"""
)
@click.argument("node_id", type=NODE_ID)
@click.option("--to", required=True, type=ACCOUNT, help="The account that will hold the node.")
@click.option("--public-key", required=True, type=KEY, help="The node's WireGuard key.")
@click.option(
    "--endpoint",
    type=ENDPOINT,
    help="The node's endpoint, stored permanently in the token's URI. The holder's 'set-endpoint' overrides "
    "it.",
)
@click.option("--token-uri", type=TOKEN_URI, default="", help="The token's metadata; not with --endpoint.")
@sends(*CHAIN, "VPN_CIDR")
def register(
    sending: Sending,
    node_id: str,
    *,
    to: str,
    public_key: PublicKey,
    endpoint: PeerEndpoint | None,
    token_uri: str,
) -> None:
    """Register a node: mint a token, which gives it access."""
    if endpoint is not None and token_uri:
        raise click.UsageError("--endpoint and --token-uri can't be given together")
    _check_endpoint(sending, endpoint)
    done = sending.carry_out(lambda admin: admin.register(to, node_id, public_key, endpoint, token_uri))
    addresses = _addresses(sending, done.token)
    sending.report(
        f"{node_id} is registered as token {done.token}: {', '.join(addresses)}",
        done.receipt,
        token=done.token,
        node_id=node_id,
        addresses=addresses,
    )


def _check_endpoint(sending: Sending, endpoint: PeerEndpoint | None) -> None:
    """Raise `UsageError` for an endpoint that all nodes refuse."""
    from dstack_vpn.wiring.addresses import destinations

    problem = None if endpoint is None else endpoint.refusal(destinations(sending.settings))
    if problem is not None:
        raise click.UsageError(problem)


def _addresses(sending: Sending, token: TokenId) -> list[str]:
    from dstack_vpn.wiring.addresses import address_plan

    return sorted(cidr.partition("/")[0] for cidr in address_plan(sending.settings).allowed_ips(token))


def find_node(sending: Sending, name: "NodeName") -> Node:
    """Return the node with a name; raises `AdminError`."""
    return asyncio.run(find(sending.settings, name))[0]


def _report(sending: Sending, node: Node, what: str, receipt: "Receipt", **facts: object) -> None:
    sending.report(f"{label(node)} {what}", receipt, token=node.token_id, **facts)


def label(node: Node) -> str:
    """Return a node's readable name."""
    name = node.node_id if isinstance(node.node_id, str) else "(a malformed node id)"
    return f"{name} (token {node.token_id})"


@click.command(
    "update-key",
    epilog="""\b
Example:
  dstack-vpn node update-key web-1 --public-key "$(dstack-vpn pubkey < new.key)\"""",
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@click.option("--public-key", required=True, type=KEY, help="The node's new WireGuard key.")
@sends(*CHAIN)
def update_key(sending: Sending, name: "NodeName", public_key: PublicKey) -> None:
    """Set a node's key. Only its holder can."""
    node = find_node(sending, name)
    receipt = sending.carry_out(lambda admin: admin.update_key(node, public_key))
    _report(sending, node, f"has the key {public_key}", receipt, public_key=str(public_key))


@click.command(
    "set-endpoint",
    epilog="""\b
Examples:
  dstack-vpn node set-endpoint web-1 vpn.example.org:51820
  dstack-vpn node set-endpoint web-1 vpn.example.org:51820,tls://vpn.example.org:443
  dstack-vpn node set-endpoint web-1 ''    # none: the node initiates all handshakes""",
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@click.argument("endpoint", type=CONTRACT_ENDPOINT)
@sends(*CHAIN)
def set_endpoint(sending: Sending, name: "NodeName", endpoint: PeerEndpoint | None) -> None:
    """Set a node's endpoint. Only its holder can."""
    text = None if endpoint is None else str(endpoint)
    _check_endpoint(sending, endpoint)
    node = find_node(sending, name)
    receipt = sending.carry_out(lambda admin: admin.set_endpoint(node, endpoint))
    _report(sending, node, f"has {f'the endpoint {text}' if text else 'no endpoint'}", receipt, endpoint=text)


@click.command(
    "set-expiry",
    epilog="""\b
Examples:
  dstack-vpn node set-expiry web-1 +30d
  dstack-vpn node set-expiry web-1 2027-01-31T18:00:00Z
  dstack-vpn node set-expiry web-1 never""",
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@click.argument("time", type=MOMENT)
@sends(*CHAIN)
def set_expiry(sending: Sending, name: "NodeName", time: Moment) -> None:
    """Set the time at which a node's access ends.

    TIME is in Unix seconds, in ISO 8601 (UTC by default), relative to now (+12h, +30d; units s, m,
    h, d, w), or 'never'.
    """
    from dstack_vpn.wiring import node as wiring

    expires_at = time(wiring.now())
    node = find_node(sending, name)
    receipt = sending.carry_out(lambda admin: admin.set_expiry(node, expires_at))
    _report(sending, node, f"has access {_until(expires_at)}", receipt, expires_at=expires_at)


def _until(expires_at: int) -> str:
    return f"until {date(expires_at) or f'second {expires_at}'}" if expires_at else "without end"


@click.command(
    epilog="""\b
Example:
  dstack-vpn node revoke web-1 --yes"""
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@_yes
@sends(*CHAIN)
def revoke(sending: Sending, name: "NodeName", *, yes: bool) -> None:
    """Revoke a node's access permanently. Only a new registration gives it access again."""
    yes = yes or not sending.sends
    check_can_ask(yes=yes)
    node = find_node(sending, name)
    confirm(f"Revoke {label(node)} of {node.owner}?", yes=yes)
    receipt = sending.carry_out(lambda admin: admin.revoke(node))
    _report(sending, node, "is revoked", receipt)


@click.command(
    epilog="""\b
Example:
  dstack-vpn node transfer web-1 --to 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"""
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@click.option("--to", required=True, type=ACCOUNT, help="The account that will hold it.")
@_yes
@sends(*CHAIN)
def transfer(sending: Sending, name: "NodeName", to: str, *, yes: bool) -> None:
    """Transfer a node. It has no access until the new holder sets a key. Only its holder can."""
    yes = yes or not sending.sends
    check_can_ask(yes=yes)
    node = find_node(sending, name)
    confirm(f"Transfer {label(node)} to {to}?", yes=yes)
    receipt = sending.carry_out(lambda admin: admin.transfer(node, to))
    _report(sending, node, f"belongs to {to}, who must set its key", receipt, owner=to.lower())
