"""`version`: the version of dstack-vpn."""

import click

from dstack_vpn import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"dstack-vpn {__version__}")
