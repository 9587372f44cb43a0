"""The commands of `node` that only read: they need no key and only the daemon's libraries."""

import asyncio
import json
import secrets
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

import click
from rich.text import Text

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.params import NAMED, SUBJECT, Subject
from dstack_vpn.cli.sending import CHAIN
from dstack_vpn.cli.tables import console
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import BY_KEY, AccessControl, Decision
from dstack_vpn.core.chain.contract import ContractState, tag_texts
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Malformed
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import AdminError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import NodeName, Snapshot

_READING: Final = (*CHAIN, "START_BLOCK", "VPN_CIDR", "GRANT_CONFIRMATIONS")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


async def find(settings: Settings, name: "NodeName") -> "tuple[Node, Snapshot]":
    """Return the node with a name, active or not; raises `AdminError` if it is missing."""
    from dstack_vpn.wiring import node as wiring

    snapshot = await wiring.registry_access(settings).one(name)
    node = name.find(snapshot.registry)
    if node is None:
        raise AdminError("the registry has no such node")
    return node, snapshot


def access_over(settings: Settings, snapshot: "Snapshot", own: PublicKey | None = None) -> AccessControl:
    """Return access control from the view of the node with the key ``own``.

    With None, the view is that of a client outside of the network.
    """
    from dstack_vpn.wiring.addresses import address_plan
    from dstack_vpn.wiring.keys import identity_of

    return AccessControl(
        snapshot.registry,
        address_plan(settings),
        # A random key, which no node has.
        own or PublicKey(secrets.token_bytes(32)),
        snapshot.at.number,
        # A node that was read alone may lack the block of its key.
        settings.grant_confirmations if snapshot.complete else 0,
        identity=BY_KEY if own is None else identity_of(settings),
    )


@click.command(
    epilog="""\b
Examples:
  dstack-vpn node info web-1
  dstack-vpn node info 10.77.0.8
  dstack-vpn node info token:7 --json"""
)
@click.argument("subject", metavar="NODE|TUNNEL-ADDRESS", type=NAMED, shell_complete=nodes)
@_as_json
@with_settings(*_READING)
def info(settings: Settings, subject: Subject, *, as_json: bool) -> None:
    """Show a node's entry in the registry, and its access."""
    from dstack_vpn.wiring import node as wiring

    name = _question(settings, subject)
    assert not isinstance(name, PublicKey)
    node, snapshot = asyncio.run(find(settings, name))
    access = access_over(settings, snapshot)
    decision = _decision(access.decide(node.token_id, wiring.judged_now(settings, snapshot.at)))
    entry = describe(node, access.addresses, snapshot.registry.contract)
    if as_json:
        click.echo(json.dumps({"block": snapshot.at.number, **entry, **decision}))
        return
    # The contract's flag is not shown: an expired node still has it.
    others = {field: value for field, value in entry.items() if field != "active"}
    shown = {"access": _access(decision), **others, "tags": tag_texts(entry["tags"])}
    console().print(
        Layout(("field", "value"), [Row((f.replace("_", " "), _cell(v))) for f, v in shown.items()])
    )


def _access(decision: dict[str, Any]) -> Text:
    granted = decision["granted"]
    return Text(f"{'granted' if granted else 'denied'}: {decision['reason']}", "green" if granted else "red")


@click.command(
    "list",
    epilog="""\b
Example:
  dstack-vpn node list --json""",
)
@_as_json
@with_settings(*_READING)
def list_(settings: Settings, *, as_json: bool) -> None:
    """List all nodes with their access."""
    from dstack_vpn.wiring import node as wiring

    snapshot = asyncio.run(wiring.registry_access(settings).list())
    access, now = access_over(settings, snapshot), wiring.judged_now(settings, snapshot.at)
    entries = [
        {**describe(node, access.addresses, access.registry.contract), **_decision(access.decide(token, now))}
        for token, node in sorted(snapshot.registry.nodes.items())
    ]
    if as_json:
        click.echo(json.dumps({"block": snapshot.at.number, "nodes": entries}))
        return
    console().print(Layout(("token", "node", "address", "access"), [_row(entry) for entry in entries]))


@click.command(
    epilog="""\b
Examples:
  dstack-vpn node verify web-1
  dstack-vpn node verify 10.77.0.8 && echo welcome
  dstack-vpn node verify 'nOKUqvjA3kwlcXOy3vhPvL1TBVsDVU8sLIjAUZ3ckHc=' --json"""
)
@click.argument("subject", metavar="NODE|KEY|TUNNEL-ADDRESS", type=SUBJECT, shell_complete=nodes)
@_as_json
@with_settings(*_READING)
@click.pass_context
def verify(ctx: click.Context, settings: Settings, subject: Subject, *, as_json: bool) -> None:
    """Check if a node, a key or a tunnel address has access, and print the reason.

    Exits with 0 if it has access, else with 1.
    """
    from dstack_vpn.wiring import node as wiring

    question = _question(settings, subject)
    name = None if isinstance(question, PublicKey) else question
    snapshot = asyncio.run(wiring.registry_access(settings).around(name))
    access = access_over(settings, snapshot)
    decision = _decide(access, question, wiring.judged_now(settings, snapshot.at))
    contract = snapshot.registry.contract
    entry = None if decision.node is None else describe(decision.node, access.addresses, contract)
    if as_json:
        click.echo(json.dumps({"block": snapshot.at.number, **_decision(decision), "node": entry}))
    else:
        click.echo(_summary(decision, entry))
    if not snapshot.complete:
        click.echo(
            "note: the contract can't enumerate its tokens: another node with the same key is not detected",
            err=True,
        )
    ctx.exit(0 if decision.granted else 1)


def _question(settings: Settings, subject: Subject) -> "PublicKey | NodeName":
    """Return the subject: for an address, its token."""
    from dstack_vpn.wiring import node as wiring
    from dstack_vpn.wiring.addresses import address_plan

    if not isinstance(subject, IPv4Address | IPv6Address):
        return subject
    token = address_plan(settings).token_at(str(subject))
    if token is None:
        raise AdminError(
            "the address belongs to no token: it is in neither VPN_CIDR nor the contract's IPv6 range"
        )
    return wiring.node_name(f"token:{token}")


def _decide(access: AccessControl, question: "PublicKey | NodeName", now: float) -> Decision:
    if isinstance(question, PublicKey):
        return access.decide(question, now)
    node = question.find(access.registry)
    return access.decide(-1 if node is None else node.token_id, now)


# -- output ----------------------------------------------------------------------------------------


def describe(node: Node, addresses: AddressPlan, contract: ContractState) -> dict[str, Any]:
    """Return a node as JSON values. A malformed field is null, and ``problems`` has the reason.

    A tag without a name is a number.
    """
    named = {
        "node_id": node.node_id,
        "public_key": node.public_key,
        "endpoint": node.endpoint,
        "uri_endpoint": node.uri_endpoint,
    }
    fields = (*named.values(), node.routes)
    return {
        "token": node.token_id,
        **{field: None if isinstance(v, Malformed | None) else str(v) for field, v in named.items()},
        "owner": node.owner,
        "active": node.active,
        "expires_at": node.expires_at or None,
        "expires": date(node.expires_at),
        "addresses": sorted(cidr.partition("/")[0] for cidr in addresses.allowed_ips(node.token_id)),
        "tags": list(contract.tags_of(node.tags)),
        "routes": None if isinstance(node.routes, Malformed) else list(node.routes),
        "problems": [value.problem for value in fields if isinstance(value, Malformed)],
    }


def date(moment: int) -> str | None:
    """Return Unix seconds as a date; None for 0, and for years after 9999."""
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else None
    except (OverflowError, ValueError, OSError):
        return None


def _decision(decision: Decision) -> dict[str, Any]:
    return {"granted": decision.granted, "reason": str(decision)}


def _summary(decision: Decision, entry: dict[str, Any] | None) -> str:
    result = f"{'granted' if decision.granted else 'denied'}: {decision}"
    if entry is None:
        return result
    addresses = ", ".join(entry["addresses"]) or "no address"
    return f"{result}; {printable(entry['node_id'])}, token {entry['token']}, {addresses}"


def _row(entry: dict[str, Any]) -> Row:
    first, *others = entry["addresses"] or [None]
    endpoint = entry["endpoint"] or entry["uri_endpoint"]
    remark = [f"endpoint {endpoint}"] if endpoint else []
    access = Text(entry["reason"], "green" if entry["granted"] else "red")
    return Row(
        (entry["token"], entry["node_id"], first, access), (*others, f"owner {entry['owner']}", *remark)
    )


def _cell(value: object) -> str | Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, list):
        return ", ".join(map(printable, value)) or "-"
    return printable({True: "yes", False: "no"}[value] if isinstance(value, bool) else value)
