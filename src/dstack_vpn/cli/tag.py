"""`tag`: the names of the tags that nodes can have."""

import asyncio
import json
from typing import Final

import click

from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.cli.tables import console
from dstack_vpn.config import Settings
from dstack_vpn.core.chain.tagging import check_names
from dstack_vpn.errors import FormatError

AT_ONCE: Final = 64
"""The number of tags that one transaction can define; it needs about 5 million gas."""


@click.group()
def tag() -> None:
    """Define and list the tags of nodes."""


@tag.command(
    epilog="""\b
Examples:
  dstack-vpn tag define gateway
  dstack-vpn tag define web db --json"""
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@sends(*CHAIN)
def define(sending: Sending, names: tuple[str, ...]) -> None:
    """Define tags, permanently. Only the contract's owner can.

    A tag is never renamed or removed, and a registry has at most 256.
    """
    from dstack_vpn.wiring import rights

    if len(names) > AT_ONCE:
        raise click.UsageError(f"{len(names)} tags are too many for one transaction: at most {AT_ONCE}")
    checked = parsed_names(names)
    receipt, numbers = sending.carry_out(lambda admin: rights.define_tags(admin, checked))
    shown = ", ".join(f"{name} (number {number})" for name, number in numbers.items())
    sending.report(f"Defined: {shown}", receipt, tags=numbers)


def parsed_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of tags; raises `UsageError` for a malformed one and for a duplicate."""
    try:
        return check_names(names)
    except FormatError as error:
        raise click.UsageError(str(error)) from error


@tag.command(
    "list",
    epilog="""\b
Example:
  dstack-vpn tag list --json""",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*CHAIN)
def list_(settings: Settings, *, as_json: bool) -> None:
    """List the defined tags with their numbers."""
    from dstack_vpn.wiring import node, rights

    names, block = asyncio.run(rights.tags(node.registry_access(settings)))
    if as_json:
        tags = [{"number": number, "name": name} for number, name in enumerate(names)]
        click.echo(json.dumps({"block": block, "tags": tags}))
        return
    rows = [Row((number, name or "(a malformed name)")) for number, name in enumerate(names)]
    console().print(Layout(("number", "name"), rows))
