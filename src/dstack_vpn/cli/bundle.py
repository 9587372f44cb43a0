"""`support-bundle`: an archive of diagnostic data without secrets."""

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
    help="A log file of the daemon to include; repeatable. systemd's journal is always included.",
)
@with_settings(of_daemon=True)
def support_bundle(settings: Settings, *, output: Path | None, logs: tuple[Path, ...]) -> None:
    """Collect diagnostic data into an archive, without secrets.

    The archive has the settings, doctor's report, the daemon's health and statistics, the network's
    state, the wg-quick file and the end of the audit log. Review it before you share it: it
    contains names, addresses and owners.
    """
    from dstack_vpn.wiring.bundle import make

    path = output or Path(time.strftime("dstack-vpn-support-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    count = make(path, settings, logs, partial(fetch, settings))
    click.echo(f"{printable(path)}: {count} files, readable only by you. Review it before you share it.")
