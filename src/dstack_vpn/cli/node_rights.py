"""`node tag` and `node routes`: the rights that a minter gives to a node."""

from typing import TYPE_CHECKING

import click

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.node_writing import find_node, label
from dstack_vpn.cli.params import NAME
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.cli.tag import parsed_names
from dstack_vpn.core.chain.invitation import canonical_routes
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import NodeName


@click.command(
    epilog="""\b
Examples:
  dstack-vpn node tag web-1 web gateway
  dstack-vpn node tag web-1 --none"""
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@click.argument("tags", metavar="TAG...", nargs=-1)
@click.option("--none", "nothing", is_flag=True, help="Remove all tags of the node.")
@sends(*CHAIN)
def tag(sending: Sending, name: "NodeName", tags: tuple[str, ...], *, nothing: bool) -> None:
    """Set a node's tags, which replace its present ones. Only minters can.

    'tag define' defines tags, and 'tag list' lists them.
    """
    from dstack_vpn.wiring import rights

    _check_given(tags, "tags", nothing=nothing)
    names = parsed_names(tags)
    node = find_node(sending, name)
    receipt, mask = sending.carry_out(lambda admin: rights.set_tags(admin, node, names))
    what = f"has the tags {', '.join(names)}" if names else "has no tags"
    sending.report(f"{label(node)} {what}", receipt, token=node.token_id, tags=names, mask=hex(mask))


@click.command(
    epilog="""\b
Examples:
  dstack-vpn node routes office 192.168.7.0/24 fd00:7::/64
  dstack-vpn node routes office --none"""
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@click.argument("networks", metavar="CIDR...", nargs=-1)
@click.option("--none", "nothing", is_flag=True, help="Remove all routes of the node.")
@sends(*CHAIN)
def routes(sending: Sending, name: "NodeName", networks: tuple[str, ...], *, nothing: bool) -> None:
    """Set the networks behind a node, which replace its present ones. Only minters can.

    A node has at most 16. They are in canonical form, and do not overlap.
    """
    from dstack_vpn.wiring import rights

    _check_given(networks, "networks", nothing=nothing)
    try:
        canonical = canonical_routes(networks)
    except FormatError as error:
        raise click.UsageError(str(error)) from error
    node = find_node(sending, name)
    receipt = sending.carry_out(lambda admin: rights.set_routes(admin, node, canonical))
    what = f"has the routes {', '.join(canonical)}" if canonical else "has no routes"
    sending.report(f"{label(node)} {what}", receipt, token=node.token_id, routes=canonical)


def _check_given(given: tuple[str, ...], what: str, *, nothing: bool) -> None:
    if bool(given) is nothing:
        raise click.UsageError(f"expected either {what} or --none")
