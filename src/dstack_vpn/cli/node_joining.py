"""`node join`: the registration of this machine by an invitation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dstack_vpn.cli.becoming import become_the_daemon
from dstack_vpn.cli.invite import NO_CONTRACT, read_code
from dstack_vpn.cli.params import CONTRACT_ENDPOINT
from dstack_vpn.cli.sending import Sending, sends
from dstack_vpn.cli.text import printable
from dstack_vpn.config.load import DEFAULT_FILE
from dstack_vpn.config.parsers import GENERATE
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

if TYPE_CHECKING:
    from dstack_vpn.wiring.invitations import Joined

_FALLBACK: Final = {**NO_CONTRACT, "WIREGUARD_PRIVATE_KEY": GENERATE}


@click.command(
    epilog="""\b
Examples:
  CONTRACT_PRIVATE_KEY_FILE=account.key dstack-vpn node join dvi1_... --run
  dstack-vpn node join - --endpoint vpn.example.org:51820 < code.txt"""
)
@click.argument("code")
@click.option(
    "--endpoint", type=CONTRACT_ENDPOINT, help="The node's endpoint; default: it initiates all handshakes."
)
@click.option(
    "--settings-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_FILE,
    show_default=True,
    help="The file to create, with the settings for 'run'. An existing file is not overwritten.",
)
@click.option("--run", "runs", is_flag=True, help="Start the node afterwards, as 'run' does.")
@sends(fallback=_FALLBACK)
def join(
    sending: Sending, code: str, *, endpoint: PeerEndpoint | None, settings_file: Path, runs: bool
) -> None:
    """Register this machine by an invitation, and write its settings file.

    It generates the WireGuard key in STATE_DIR; the key never leaves the machine. The account of
    CONTRACT_PRIVATE_KEY pays the gas and holds the node. The code names the chain and the contract.
    CODE may be '-' for standard input. The file also keeps all other settings that are given. With
    --calldata, which needs --sender, run the command again after the transaction is mined: it
    recognizes the node by its key, and writes the file.
    """
    from dstack_vpn.wiring import invitations as wiring

    found = InvitationCode.decode(read_code(code))
    settings = wiring.settings_for(sending.settings, found.registry)
    wiring.check_join(settings, found, endpoint, settings_file)
    sending = replace(sending, settings=settings)
    joined = sending.carry_out(lambda admin: wiring.join(settings, admin, found, endpoint))
    node_id = found.invitation.node_id
    _report(sending, node_id, joined, settings_file)
    wiring.write_settings(settings, node_id, settings_file)
    if runs:
        arguments = ["--config", str(settings_file.absolute())]
        become_the_daemon(arguments, wiring.environment_of_daemon(settings))
        return
    click.echo(printable(f"start it with: dstack-vpn run --config {settings_file}"), err=True)


def _report(sending: Sending, node_id: str, joined: "Joined", settings_file: Path) -> None:
    from dstack_vpn.wiring import invitations as wiring

    addresses = wiring.addresses(sending.settings, joined.token)
    facts = {
        "token": joined.token,
        "node_id": node_id,
        "addresses": addresses,
        "settings_file": str(settings_file),
    }
    if joined.receipt is not None:
        result = f"{node_id} is registered as token {joined.token}: {', '.join(addresses)}"
        sending.report(result, joined.receipt, **facts)
    elif sending.as_json:
        click.echo(json.dumps({**facts, "transaction": None}))
    else:
        known = f"{node_id} was already registered by this machine as token {joined.token}"
        click.echo(f"{known}: {', '.join(addresses)}")
