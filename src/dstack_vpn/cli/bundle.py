"""`support-bundle`: the data that another person needs to find a fault, without secrets."""

import time
from functools import partial
from pathlib import Path

import click

from dstack_vpn.cli.http import fetch
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings


@click.command(
    "support-bundle",
    epilog="""\b
Examples:
  dstack-vpn support-bundle
  dstack-vpn support-bundle --output /tmp/node-a.tar.gz --log /var/log/dstack-vpn.log""",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The archive to write.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A log of the daemon's to put in; may be given several times. systemd's journal is taken anyway.",
)
@with_settings(of_daemon=True)
def support_bundle(settings: Settings, *, output: Path | None, logs: tuple[Path, ...]) -> None:
    """Collect what helps to find a fault into one archive, with every secret taken out.

    It has the settings, doctor's report, what the daemon says of itself, the network's state, the wg-quick
    file and the end of the audit log. Look at it before you pass it on: names, addresses, owners are in it.
    """
    from dstack_vpn.wiring.bundle import make

    path = output or Path(time.strftime("dstack-vpn-support-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    count = make(path, settings, logs, partial(fetch, settings))
    click.echo(f"{printable(path)}: {count} files, readable by you alone. Look at it before you pass it on.")
