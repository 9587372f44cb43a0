"""`node register-csv`: the registration of many nodes from a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dstack_vpn.cli.sending import CHAIN, Sending, sends

if TYPE_CHECKING:
    from dstack_vpn.wiring.enrolment import Enrolled


@click.command(
    "register-csv",
    epilog="""\b
Examples:
  dstack-vpn node register-csv nodes.csv --dry-run
  dstack-vpn node register-csv nodes.csv""",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@sends(*CHAIN, "VPN_CIDR")
def register_csv(sending: Sending, file: Path) -> None:
    """Register the nodes of a CSV file in few transactions: about 50 nodes in each.

    The first line names the columns: node_id, holder and public_key, and optionally endpoint, tags,
    routes (both separated by blanks) and expires (Unix seconds or ISO 8601). The whole file is
    checked before the first transaction. A second run skips nodes that are registered with equal
    data, and sets rights that an interrupted run did not set.

    With --calldata, run the command again after the transactions are mined: it then prints those
    that set tags, routes and expiries.
    """
    from dstack_vpn.wiring import enrolment

    wanted = enrolment.read_file(sending.settings, file)
    done = sending.carry_out(lambda admin: enrolment.enrol(admin, wanted))
    sending.report_all(summary(done), done.receipts, **facts(done))


def summary(done: "Enrolled") -> str:
    """Return the result of a registration of many nodes."""
    return (
        f"{len(done.registered)} nodes are registered, {len(done.completed)} were completed, "
        f"{len(done.unchanged)} were registered already with equal data"
    )


def facts(done: "Enrolled") -> dict[str, Any]:
    """Return the result as JSON values."""
    return {
        "registered": [{"token": token, "node_id": node_id} for token, node_id in done.registered],
        "completed": done.completed,
        "unchanged": [{"token": token, "node_id": node_id} for token, node_id in done.unchanged],
    }
