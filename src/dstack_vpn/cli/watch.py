"""`status` and `healthcheck`: a running daemon's report over HTTP."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from dstack_vpn import config
from dstack_vpn.cli.http import HTTP, fetch
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON once.")
@click.option("--once", is_flag=True, help="Print once and exit.")
@with_settings(*HTTP)
def status(settings: Settings, *, as_json: bool, once: bool) -> None:
    """Show the running daemon's health and peers; in a terminal, refresh them until Ctrl-C."""
    if as_json:
        click.echo(json.dumps({"health": fetch(settings, "/health"), "stats": fetch(settings, "/stats")}))
        return
    from rich.live import Live

    from dstack_vpn.cli import tables
    from dstack_vpn.cli.tables import status_view

    console = tables.console()
    view = status_view(fetch(settings, "/health"), fetch(settings, "/stats"))
    if once or not console.is_terminal:
        console.print(view)
        return
    with Live(view, console=console, auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(status_view(fetch(settings, "/health"), fetch(settings, "/stats")), refresh=True)


@click.command()
@click.option("--config", "config_file", type=_FILE, help="A TOML file with settings.")
@click.option("--health-check-host", metavar="TEXT", help="Address of the daemon's HTTP server.")
@click.option("--health-check-port", metavar="TEXT", help="Port of the daemon's HTTP server.")
def healthcheck(config_file: Path | None, **values: str | None) -> None:
    """Exit with 0 if the running daemon or relay is ready, else with 1.

    A container's health check can use it. Ready means that the tunnel carries the registry's
    members; an unreachable chain does not change this. Each component with a problem is printed on
    a line, in both cases.
    """
    flags = {key: text for key, text in values.items() if text is not None}
    health = fetch(config.load_either(flags, file=config_file), "/health")
    ready = health.get("ready") is True
    click.echo("ready" if ready else "not ready")
    for component in _components(health):
        click.echo(printable(component))
    click.get_current_context().exit(0 if ready else 1)


def _components(health: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems, one per component."""
    listed = health.get("components")
    for component in listed if isinstance(listed, list) else ():
        if isinstance(component, dict) and component.get("status") != "ok":
            yield f"{component.get('name')}: {component.get('reason')}"
