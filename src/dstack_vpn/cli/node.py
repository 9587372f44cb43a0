"""`node`: the registry's nodes; see `node_reading` and `node_writing`."""

import click

from dstack_vpn.cli.node_enrolling import register_csv
from dstack_vpn.cli.node_joining import join
from dstack_vpn.cli.node_reading import info, list_, verify
from dstack_vpn.cli.node_rights import routes, tag
from dstack_vpn.cli.node_rotating import rotate_key
from dstack_vpn.cli.node_writing import register, revoke, set_endpoint, set_expiry, transfer, update_key


@click.group()
def node() -> None:
    """Register, change, revoke and look up nodes.

    NODE is a node id or a token id; write node:7 or token:7 if both exist.
    """


for command in (
    info,
    join,
    list_,
    register,
    register_csv,
    revoke,
    rotate_key,
    routes,
    set_endpoint,
    set_expiry,
    tag,
    transfer,
    update_key,
    verify,
):
    node.add_command(command)
