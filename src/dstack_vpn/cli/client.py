"""`client`: phones and laptops that run the ordinary WireGuard app behind a gateway.

A client's private key is printed once and is kept nowhere. It is never an argument: other users of
this machine can read these.
"""

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.invite import NO_CONTRACT, read_code
from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.node_reading import access_over, describe
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.params import ACCOUNT, KEY, NODE_ID
from dstack_vpn.cli.qr import qr, write_png
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.cli.tables import console
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.exits import DEFAULTS
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Cidr, Endpoint, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.client_config import ClientConfig
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import clamp, derive
from dstack_vpn.errors import AdminError, FormatError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import Receipt, Snapshot

_SETTINGS = (*CHAIN, "START_BLOCK", "VPN_CIDR", "GRANT_CONFIRMATIONS", "DNS_PORT", "DNS_SUFFIX")
_qr = click.option("--qr", "as_qr", is_flag=True, help="Print a QR code instead of the text.")
_png = click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a QR code to a new image file, which only its owner can read.",
)
_dns = click.option(
    "--dns/--no-dns", default=True, show_default=True, help="Use the gateway as the client's DNS server."
)

_to_gateway = click.option(
    "--gateway", required=True, type=NODE_ID, shell_complete=nodes, help="The gateway's node id."
)
_public_key = click.option(
    "--public-key",
    type=KEY,
    help="A key that the client has made itself. 'client config' then prints its configuration.",
)
_exit = click.option(
    "--exit", "as_exit", is_flag=True, help="Send everything by the gateway, which must be an exit."
)
_networks = click.option(
    "--networks", "with_networks", is_flag=True, help="Also send the networks behind the gateway by it."
)


@click.group()
def client() -> None:
    """Add phones and laptops that run the ordinary WireGuard app.

    A client joins by a gateway: a node with the tag 'gateway' that forwards for it. A gateway sees
    the packets of its clients, and can send packets as them.
    """


@client.command(
    epilog="""\b
Examples:
  dstack-vpn client add phone-1 --gateway gw-1
  dstack-vpn client add laptop-1 --gateway gw-1 --to 0x7099... > laptop-1.conf"""
)
@click.argument("name", type=NODE_ID)
@_to_gateway
@click.option("--to", type=ACCOUNT, help="The account that will hold the client; default: the sender.")
@_public_key
@_qr
@_png
@_dns
@_exit
@_networks
@sends(*_SETTINGS)
def add(
    sending: Sending,
    name: str,
    *,
    gateway: str,
    to: str | None,
    public_key: PublicKey | None,
    as_qr: bool,
    png: Path | None,
    dns: bool,
    as_exit: bool,
    with_networks: bool,
) -> None:
    """Register a client, and print its configuration for the WireGuard app.

    The configuration has the client's private key, which is kept nowhere else. A terminal also
    shows it as a QR code.
    """
    _check_output(as_qr=as_qr, png=png)
    _check_key(sending, public_key)
    sending = replace(sending.unlocked(), beside=True)
    owner = to or sending.account()
    if owner is None:
        raise click.UsageError("--to: the account of the transaction is unknown, so it can't be the holder")
    snapshot, access, now = asyncio.run(_read(sending.settings))
    if any(snapshot.registry.nodes[token].active for token in snapshot.registry.with_node_id(name)):
        raise AdminError(f"the registry already has a node {name}")
    node, endpoint = _gateway(sending.settings, access, gateway, now)
    networks = _sent(sending.settings, access, node, now, as_exit=as_exit, with_networks=with_networks)
    key = clamp(secrets.token_bytes(KEY_LENGTH))
    registered = public_key or derive(key)
    way = PeerEndpoint(via=gateway)
    done = sending.carry_out(lambda admin: admin.register(owner, name, registered, way, ""))
    config = _config(sending.settings, name, done.token, node, endpoint, dns=dns, networks=networks)
    _report(sending, config, done.token, done.receipt, None if public_key else key, as_qr=as_qr, png=png)


@client.command(
    epilog="""\b
Examples:
  CONTRACT_PRIVATE_KEY_FILE=account.key dstack-vpn client join dvi1_... --gateway gw-1
  dstack-vpn client join - --gateway gw-1 --png phone-1.png < code.txt"""
)
@click.argument("code")
@_to_gateway
@_public_key
@_qr
@_png
@_dns
@_exit
@_networks
@sends(*_SETTINGS, fallback=NO_CONTRACT)
def join(
    sending: Sending,
    code: str,
    *,
    gateway: str,
    public_key: PublicKey | None,
    as_qr: bool,
    png: Path | None,
    dns: bool,
    as_exit: bool,
    with_networks: bool,
) -> None:
    """Register a client by an invitation, and print its configuration for the WireGuard app.

    The account of CONTRACT_PRIVATE_KEY pays the gas and holds the client. The code names the
    client, the chain and the contract. CODE may be '-' for standard input. The configuration has
    the client's private key, which is kept nowhere else.
    """
    from dstack_vpn.wiring import invitations as wiring

    _check_output(as_qr=as_qr, png=png)
    _check_key(sending, public_key)
    found = InvitationCode.decode(read_code(code))
    settings, name = wiring.settings_for(sending.settings, found.registry), found.invitation.node_id
    sending = replace(replace(sending, settings=settings).unlocked(), beside=True)
    _, access, now = asyncio.run(_read(settings))
    node, endpoint = _gateway(settings, access, gateway, now)
    networks = _sent(settings, access, node, now, as_exit=as_exit, with_networks=with_networks)
    key = clamp(secrets.token_bytes(KEY_LENGTH))
    registered, way = public_key or derive(key), PeerEndpoint(via=gateway)
    done = sending.carry_out(lambda admin: wiring.redeem(settings, admin, found, registered, way))
    config = _config(settings, name, done.token, node, endpoint, dns=dns, networks=networks)
    _report(sending, config, done.token, done.receipt, None if public_key else key, as_qr=as_qr, png=png)


@client.command(
    epilog="""\b
Examples:
  dstack-vpn client config phone-1 --key phone-1.key --qr
  dstack-vpn client config phone-1 --key phone-1.key --exit
  dstack-vpn client config phone-1 --png phone-1.png < phone-1.key"""
)
@click.argument("name", type=NODE_ID, shell_complete=nodes)
@click.option(
    "--key",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file with the client's private key; default: standard input.",
)
@_qr
@_png
@_dns
@_exit
@_networks
@with_settings(*_SETTINGS)
def config(
    settings: Settings,
    name: str,
    *,
    key_file: Path | None,
    as_qr: bool,
    png: Path | None,
    dns: bool,
    as_exit: bool,
    with_networks: bool,
) -> None:
    """Print the configuration of a client whose private key exists."""
    _check_output(as_qr=as_qr, png=png)
    key = _read_key(key_file)
    _, access, now = asyncio.run(_read(settings))
    node = access.decide(name, now).node
    if node is None:
        raise AdminError(f"the registry has no node {name}")
    if node.via is None:
        raise AdminError(f"{name} is not a client: its endpoint names no gateway (via:NODE)")
    if node.public_key != derive(key):
        raise AdminError(f"the private key is not that of {name}, whose public key is {node.public_key}")
    gateway, endpoint = _gateway(settings, access, node.via, now)
    networks = _sent(settings, access, gateway, now, as_exit=as_exit, with_networks=with_networks)
    made = _config(settings, name, node.token_id, gateway, endpoint, dns=dns, networks=networks)
    _show(made.render(_text(key)), as_qr=as_qr, png=png)


@client.command(
    "list",
    epilog="""\b
Example:
  dstack-vpn client list --json""",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*_SETTINGS)
def list_(settings: Settings, *, as_json: bool) -> None:
    """List the clients with their gateways and their access."""
    snapshot, access, now = asyncio.run(_read(settings))
    found = []
    for token, node in sorted(snapshot.registry.nodes.items()):
        if node.via is not None:
            decision = access.decide(token, now)
            entry = describe(node, access.addresses, access.registry.contract)
            found.append(
                {
                    **{field: entry[field] for field in ("token", "node_id", "owner", "addresses")},
                    "gateway": node.via,
                    "granted": decision.granted,
                    "reason": str(decision),
                }
            )
    if as_json:
        click.echo(json.dumps({"block": snapshot.at.number, "clients": found}))
        return
    console().print(Layout(("token", "client", "gateway", "address", "access"), list(map(_row, found))))


# -- helpers ---------------------------------------------------------------------------------------


def _check_key(sending: Sending, public_key: PublicKey | None) -> None:
    if public_key is None and not sending.sends:
        raise click.UsageError(
            "--dry-run and --calldata need --public-key: a new private key would be lost. Make one with "
            "'dstack-vpn keygen', and print the configuration with 'client config' afterwards"
        )


def _report(
    sending: Sending,
    config: ClientConfig,
    token: TokenId,
    receipt: "Receipt",
    key: PrivateKey | None,
    *,
    as_qr: bool,
    png: Path | None,
) -> None:
    """Report the registration, and print the configuration if the key was made here."""
    name, gateway = config.name, config.gateway
    text = None if key is None else config.render(_text(key))
    sending.report(
        f"{name} is registered as token {token}, a client of {gateway}: {', '.join(config.addresses)}",
        receipt,
        token=token,
        node_id=name,
        gateway=gateway,
        addresses=[cidr.partition("/")[0] for cidr in config.addresses],
        config=text,
    )
    if text is None:
        click.echo(f"its configuration: dstack-vpn client config {name} < its-private.key", err=True)
    elif not sending.as_json:
        _show(text, as_qr=as_qr, png=png)
        if png is None and not as_qr and (screen := console()).is_terminal:
            screen.print(qr(text))


async def _read(settings: Settings) -> "tuple[Snapshot, AccessControl, float]":
    from dstack_vpn.wiring import node as wiring

    snapshot = await wiring.registry_access(settings).everything()
    return snapshot, access_over(settings, snapshot), wiring.judged_now(settings, snapshot.at)


def _gateway(settings: Settings, access: AccessControl, node_id: str, now: float) -> tuple[Node, Endpoint]:
    """Return a gateway and its UDP endpoint; raises `AdminError` if a client can't use it."""
    from dstack_vpn.core.access.membership import PeerPolicy
    from dstack_vpn.wiring.addresses import destinations

    node = access.gateway(node_id, now)
    if not isinstance(node, Node):
        raise AdminError(f"--gateway: {node}")
    found = PeerPolicy(destinations=destinations(settings)).endpoint_of(node)
    if found is None or found.udp is None:
        raise AdminError(
            f"--gateway: {node_id} has no UDP endpoint that a client can reach: set one with "
            "'dstack-vpn node set-endpoint'"
        )
    return node, found.udp


def _sent(
    settings: Settings,
    access: AccessControl,
    gateway: Node,
    now: float,
    *,
    as_exit: bool,
    with_networks: bool,
) -> list[Cidr]:
    """Return the prefixes that a client sends to its gateway; raises `AdminError`."""
    from dstack_vpn.wiring.addresses import address_plan

    exits = {*DEFAULTS.values()}
    routes = access.decide(gateway.token_id, now).routes
    if as_exit:
        if not exits.intersection(routes):
            raise AdminError(
                f"--exit: {gateway.node_id} is not an exit: its routes have neither 0.0.0.0/0 nor ::/0"
            )
        # Both, even if the exit has one alone: the other version must not leave beside it.
        return [*DEFAULTS.values()]
    behind = [route for route in routes if route not in exits]
    if with_networks and not behind:
        raise AdminError(f"--networks: {gateway.node_id} has no networks behind it")
    return [*map(str, address_plan(settings).networks), *(behind if with_networks else ())]


def _config(
    settings: Settings,
    name: str,
    token: TokenId,
    gateway: Node,
    endpoint: Endpoint,
    *,
    dns: bool,
    networks: Sequence[Cidr],
) -> ClientConfig:
    from dstack_vpn.wiring.addresses import address_plan

    plan = address_plan(settings)
    servers = plan.texts_of(gateway.token_id)[:1] if dns and settings.dns_port == 53 else ()
    assert isinstance(gateway.public_key, PublicKey)
    return ClientConfig(
        name,
        str(gateway.node_id),
        sorted(plan.allowed_ips(token), key=lambda cidr: ":" in cidr),
        gateway.public_key,
        endpoint,
        networks,
        (*servers, settings.dns_suffix) if servers else (),
    )


def _read_key(file: Path | None) -> PrivateKey:
    from dstack_vpn.config.secret_file import LIMIT, read_secret
    from dstack_vpn.errors import ConfigError

    problems: list[str] = []
    text = sys.stdin.read(LIMIT) if file is None else read_secret("--key", file, problems, "phone-1.key")
    if problems:
        raise ConfigError(problems)
    try:
        return PrivateKey.parse((text or "").strip())
    except FormatError as error:
        raise AdminError(f"{'standard input' if file is None else '--key'}: {error}") from error


def _text(key: PrivateKey) -> str:
    return base64.b64encode(key.reveal()).decode("ascii")


def _check_output(*, as_qr: bool, png: Path | None) -> None:
    if as_qr and png is not None:
        raise click.UsageError("--qr and --png can't be given together")
    if png is not None and os.path.lexists(png):
        raise click.UsageError(f"--png: {printable(png)} exists already")


def _show(text: str, *, as_qr: bool, png: Path | None) -> None:
    if png is not None:
        write_png(text, png)
        click.echo(f"the QR code is in {printable(png)}; it has the private key", err=True)
    elif as_qr:
        console().print(qr(text))
    else:
        click.echo(text, nl=False)


def _row(entry: dict[str, Any]) -> Row:
    first, *others = entry["addresses"] or [None]
    access = Text(entry["reason"], "green" if entry["granted"] else "red")
    name = printable(entry["node_id"] or "(a malformed node id)")
    return Row((entry["token"], name, entry["gateway"], first, access), (*others, f"owner {entry['owner']}"))
