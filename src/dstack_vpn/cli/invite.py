"""`invite`: invitations, with which a new machine registers itself.

A code is read as an argument, or from standard input for ``-``: other users of this machine can
read a process's arguments.
"""

import asyncio
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from dstack_vpn.cli.keystore import Keystore, needed_account, with_keystore
from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.params import ACCOUNT, Checked, Moment, parse_moment
from dstack_vpn.cli.qr import qr
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.cli.tables import console
from dstack_vpn.config import Settings
from dstack_vpn.config.parsers import seconds
from dstack_vpn.core.chain.invitation import canonical_routes, check_label
from dstack_vpn.core.chain.invitation_code import MAX_CODE, InvitationCode
from dstack_vpn.core.chain.invitation_facts import InvitationFacts, moment, refusal, tag_names
from dstack_vpn.core.model import ZERO_ADDRESS, Cidr
from dstack_vpn.errors import AdminError

LONGEST: Final = 365 * 86_400
"""The maximum number of seconds for which an invitation can be redeemed."""
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_SPAN: Final = re.compile(r"[0-9]{1,9}[smhdw]", re.ASCII)
NO_CONTRACT: Final = {"CONTRACT_ADDRESS": ZERO_ADDRESS}
"""The contract of commands whose code names it."""


def _texts(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _parse_tags(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(check_label(each, "tags") for each in _texts(text)))


def _parse_routes(text: str) -> tuple[Cidr, ...]:
    return canonical_routes(_texts(text))


def _parse_end(text: str) -> Moment:
    return parse_moment(f"+{text}" if _SPAN.fullmatch(text) else text)


def _parse_id(text: str) -> str:
    return check_label(text, "node id")


def read_code(text: str) -> str:
    """Return the text of a code, from standard input for ``-``."""
    return sys.stdin.read(2 * MAX_CODE) if text == "-" else text


@click.group()
def invite() -> None:
    """Invite a new machine to register itself with 'node join'.

    A code is a secret unless it names a holder: the first account that redeems it has the node.
    """


@invite.command(
    epilog="""\b
Examples:
  dstack-vpn invite create web-1 --tags web --expires 90d --valid 24h
  dstack-vpn invite create office --routes 192.168.7.0/24 \\
      --holder 0x70997970C51812dc3A010C7d01b50e0d17dc79C8"""
)
@click.argument("node_id", type=Checked("node id", _parse_id))
@click.option("--tags", type=Checked("tags", _parse_tags), default=(), help="The node's tags, with commas.")
@click.option(
    "--routes",
    type=Checked("routes", _parse_routes),
    default=(),
    help="The networks behind the node, with commas.",
)
@click.option(
    "--expires",
    type=Checked("time", _parse_end),
    default="never",
    show_default=True,
    help="The end of the node's access: 90d, a date, or never.",
)
@click.option(
    "--valid",
    type=Checked("time", seconds(60, LONGEST)),
    default="24h",
    show_default=True,
    help="The time in which the invitation can be redeemed, up to 365d.",
)
@click.option("--holder", type=ACCOUNT, help="The only account that may redeem it; default: any.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@with_keystore
@with_settings(*CHAIN, "STATE_DIR", need=needed_account)
def create(
    settings: Settings,
    node_id: str,
    *,
    tags: tuple[str, ...],
    routes: tuple[Cidr, ...],
    expires: Moment,
    valid: int,
    holder: str | None,
    as_json: bool,
    keystore: Path | None,
    password_file: Path | None,
) -> None:
    """Sign an invitation and print its code.

    It costs no gas: CONTRACT_PRIVATE_KEY of a minter signs, and the invited machine pays. A
    terminal also shows the code as a QR code.
    """
    from dstack_vpn.wiring import invitations as wiring
    from dstack_vpn.wiring.audit_log import record
    from dstack_vpn.wiring.node import now

    present = now()
    deadline, expires_at = int(present) + valid, expires(present)
    if expires_at and expires_at < deadline:
        raise click.UsageError("--expires: the node's access would end before the invitation (--valid) does")
    terms = wiring.Terms(node_id, tags, routes, expires_at, deadline, holder)
    signing = settings if keystore is None else Keystore(keystore, password_file).unlock(settings)
    code = asyncio.run(wiring.create(signing, terms))
    identity = "0x" + wiring.hash_of(code).hex()
    summary = f"{node_id} is invited until {moment(deadline)}"
    record(settings, "admin.invitation", what=summary, hash=identity, minter=code.invitation.minter)
    if as_json:
        click.echo(json.dumps({"code": code.encode(), **_facts(code, list(tags)), "hash": identity}))
        return
    click.echo(f"{summary}; on its machine: dstack-vpn node join CODE", err=True)
    if code.claim_key is not None:
        click.echo("The code is a secret: any account that has it can redeem it.", err=True)
    click.echo(f"To make it useless: dstack-vpn invite cancel {identity}", err=True)
    click.echo(code.encode())
    if (screen := console()).is_terminal:
        _show_qr(screen, qr(code.encode()))


def _show_qr(screen: Console, drawn: Text) -> None:
    lines = drawn.split()
    columns, height = len(lines[0]), len(lines)
    if columns > screen.width:
        click.echo(f"A terminal of {columns} columns and {height} lines also shows a QR code.", err=True)
    else:
        screen.print(drawn)


def _facts(code: InvitationCode, tags: list[str]) -> dict[str, Any]:
    """Return a code's content without its secret and its signature."""
    terms = code.invitation
    return {
        "node_id": terms.node_id,
        "tags": tags,
        "routes": list(terms.routes),
        "expires_at": terms.expires_at,
        "deadline": terms.deadline,
        "minter": terms.minter,
        "holder": None if terms.holder == ZERO_ADDRESS else terms.holder,
        "chain_id": code.registry.chain_id,
        "contract": code.registry.contract,
    }


@invite.command(
    epilog="""\b
Examples:
  dstack-vpn invite show dvi1_...
  RPC_URL=https://mainnet.base.org dstack-vpn invite show - --json < code.txt"""
)
@click.argument("code")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*CHAIN, fallback=NO_CONTRACT)
def show(settings: Settings, code: str, *, as_json: bool) -> None:
    """Show the content of an invitation's code: who signed it, for which node, until when.

    CODE may be '-' for standard input. With RPC_URL, the registry is asked if it can be redeemed;
    without it, the command works offline.
    """
    from dstack_vpn.wiring import invitations as wiring
    from dstack_vpn.wiring.node import now

    found, state = InvitationCode.decode(read_code(code)), None
    if "RPC_URL" in settings.texts:
        state = asyncio.run(wiring.look_up(wiring.settings_for(settings, found.registry), found))
    by_account = wiring.is_signed_by_account(found)
    status = _status(found, state, now(), by_account=by_account)
    names = tag_names(found.invitation.tags, () if state is None else state.rights.tags)
    entry = {**_facts(found, names), "hash": "0x" + wiring.hash_of(found).hex()}
    if as_json:
        facts = {"signed_by_account": by_account, "checked_on_chain": state is not None, "status": status}
        click.echo(json.dumps({**entry, **facts}))
        return
    entry["expires_at"] = moment(found.invitation.expires_at) if found.invitation.expires_at else "never"
    entry["deadline"] = moment(found.invitation.deadline)
    entry["holder"] = entry["holder"] or "any account with the code"
    rows = [Row((name.replace("_", " "), _cell(value))) for name, value in entry.items()]
    good = status.startswith("open")
    console().print(
        Layout(("field", "value"), [*rows, Row(("status", Text(status, "green" if good else "red")))])
    )


def _cell(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _status(code: InvitationCode, state: InvitationFacts | None, now: float, *, by_account: bool) -> str:
    if state is not None:
        return refusal(code.invitation, state) or "open"
    if now > code.invitation.deadline:
        return f"the invitation expired at {moment(code.invitation.deadline)}"
    if not by_account:
        return "the signature is not an account's: set RPC_URL to check if it is a contract's"
    return "open, unless it was used or cancelled: set RPC_URL to check"


@invite.command(
    epilog="""\b
Examples:
  dstack-vpn invite cancel dvi1_...
  dstack-vpn invite cancel 0x51d6... --contract-address 0x5fbd..."""
)
@click.argument("code", metavar="CODE|HASH")
@sends(*CHAIN, "STATE_DIR", fallback=NO_CONTRACT)
def cancel(sending: Sending, code: str) -> None:
    """Make an invitation useless. Any minter can.

    CODE may be '-' for standard input. The hash is the one that 'invite create' and 'invite show'
    print; it also needs CONTRACT_ADDRESS.
    """
    from dstack_vpn.wiring import invitations as wiring

    text = read_code(code)
    if _HASH.fullmatch(text):
        if sending.settings.contract_address == ZERO_ADDRESS:
            raise AdminError("a hash does not name its registry: set CONTRACT_ADDRESS, or give the code")
        identity, node_id = bytes.fromhex(text[2:]), None
    else:
        found = InvitationCode.decode(text)
        sending = replace(sending, settings=wiring.settings_for(sending.settings, found.registry))
        identity, node_id = wiring.hash_of(found), found.invitation.node_id
    receipt = sending.carry_out(lambda admin: wiring.cancel(sending.settings, admin, identity))
    what = "The invitation" if node_id is None else f"The invitation of {node_id}"
    sending.report(f"{what} is cancelled", receipt, hash="0x" + identity.hex(), node_id=node_id)
