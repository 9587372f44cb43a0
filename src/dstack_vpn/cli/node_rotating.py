"""`node rotate-key`: another key for this very node, while its daemon runs."""

from typing import TYPE_CHECKING

import click

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.node_writing import find_node, label
from dstack_vpn.cli.params import NAME
from dstack_vpn.cli.sending import CHAIN, Sending, sends
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError, ChainError, UnknownOutcomeError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import NodeName


@click.command(
    "rotate-key",
    epilog="""\b
Example (on the node itself, beside its daemon and with its STATE_DIR):
  WIREGUARD_PRIVATE_KEY=generate CONTRACT_PRIVATE_KEY_FILE=holder.key dstack-vpn node rotate-key web-1""",
)
@click.argument("name", metavar="NODE", type=NAME, shell_complete=nodes)
@sends(*CHAIN, "STATE_DIR")
def rotate_key(sending: Sending, name: "NodeName") -> None:
    """Make a new key, and announce it: the daemon takes it when the registry has it.

    Only with WIREGUARD_PRIVATE_KEY=generate, where the key is ours to change; and only the node's holder can
    announce it. If the transaction is refused, the old key stays in use. Each try makes another key, because
    another member can be first to register a key that was announced once.
    """
    from dstack_vpn.wiring.keys import FileKeyRing, forget, make_next

    settings = sending.settings
    if settings.key_file is None:
        raise AdminError(
            "the key is not ours to change: with WIREGUARD_PRIVATE_KEY=generate it is; else make one with "
            "'dstack-vpn keygen' and announce it with 'node update-key'"
        )
    if settings.wireguard_private_key is None:
        raise AdminError(
            f"there is no key in {settings.key_file} yet: the daemon makes it at its first start"
        )
    node = find_node(sending, name)
    ours = {derive(settings.wireguard_private_key), *FileKeyRing(settings.key_file).others()}
    if node.public_key not in ours:
        raise AdminError(f"{label(node)} does not have this machine's key: rotate it where its daemon runs")
    public, waiting = make_next(settings.key_file)
    try:
        receipt = sending.carry_out(lambda admin: admin.update_key(node, public))
    except UnknownOutcomeError as error:
        raise UnknownOutcomeError(
            f"{error}\nThe new key waits in {waiting}: the daemon takes it when the registry has it"
        ) from error
    except ChainError as error:  # before anything was signed
        forget(waiting)
        raise AdminError(f"{error}\nThe old key stays in use; nothing was sent") from error
    except AdminError as error:
        raise AdminError(
            f"{error}\nThe old key stays in use. Another try makes another key, because this one may have "
            f"been seen, and registered for another node. It waits in {waiting}, if it is mined after all"
        ) from error
    sending.tell(
        f"{label(node)} has the key {public}; its daemon takes it now", receipt, public_key=str(public)
    )
