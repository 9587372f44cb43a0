"""`node rotate-key`: the key rotation of this machine's node, while its daemon runs."""

from typing import TYPE_CHECKING

import click

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.node_writing import find_node, label
from dstack_vpn.cli.params import NAME
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.core.chain.unsent import Mode
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError, ChainError, UnknownOutcomeError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import NodeName


@click.command(
    "rotate-key",
    epilog="""\b
Example (on the node's machine, with the daemon's STATE_DIR):
  WIREGUARD_PRIVATE_KEY=generate CONTRACT_PRIVATE_KEY_FILE=holder.key dstack-vpn node rotate-key web-1""",
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@sends(*CHAIN, "STATE_DIR")
def rotate_key(sending: Sending, name: "NodeName") -> None:
    """Generate a new key and register it; the daemon uses it as soon as the registry has it.

    This requires WIREGUARD_PRIVATE_KEY=generate, and the account of the node's holder. If the
    transaction is refused, the old key stays in use. Each attempt generates another key, because
    another member could register a key that an earlier transaction has published.
    """
    from dstack_vpn.wiring.keys import FileKeyRing, forget, make_next

    settings = sending.settings
    if settings.key_file is None:
        raise AdminError(
            "the daemon's key can't be rotated: this requires WIREGUARD_PRIVATE_KEY=generate; otherwise "
            "create a key with 'dstack-vpn keygen' and register it with 'node update-key'"
        )
    if settings.wireguard_private_key is None:
        raise AdminError(f"{settings.key_file} has no key yet: the daemon generates it at its first start")
    node = find_node(sending, name)
    own_keys = {derive(settings.wireguard_private_key), *FileKeyRing(settings.key_file).others()}
    if node.public_key not in own_keys:
        raise AdminError(
            f"{label(node)} does not have this machine's key: run this command on the node's machine"
        )
    public, waiting = make_next(settings.key_file)
    try:
        receipt = sending.carry_out(lambda admin: admin.update_key(node, public))
    except click.exceptions.Exit:  # after --dry-run and --calldata
        if sending.mode is Mode.CALLDATA:
            click.echo(
                f"The new key is kept in {waiting}: the daemon uses it as soon as the registry has it",
                err=True,
            )
        else:
            forget(waiting)
        raise
    except UnknownOutcomeError as error:
        raise UnknownOutcomeError(
            f"{error}\nThe new key is kept in {waiting}: the daemon uses it as soon as the registry has it"
        ) from error
    except ChainError as error:  # before anything was signed
        forget(waiting)
        raise AdminError(f"{error}\nThe old key stays in use; nothing was sent") from error
    except AdminError as error:
        raise AdminError(
            f"{error}\nThe old key stays in use. The next attempt generates another key, because another "
            "member may register this one. It is kept in "
            f"{waiting}, in case the transaction is mined later"
        ) from error
    sending.report(
        f"{label(node)} has the key {public}; its daemon will use it", receipt, public_key=str(public)
    )
