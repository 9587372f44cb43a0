"""`status` and `healthcheck`: what a running daemon says about itself over its HTTP endpoint."""

import json
import time
import urllib.error
import urllib.request
from typing import Any, Final

import click

from dstack_vpn.cli.options import with_settings
from dstack_vpn.config import Settings
from dstack_vpn.errors import AdminError

_HTTP = ("HEALTH_CHECK_HOST", "HEALTH_CHECK_PORT")
_DEADLINE: Final = 3.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, once.")
@click.option("--once", is_flag=True, help="Print once instead of staying.")
@with_settings(*_HTTP)
def status(settings: Settings, *, as_json: bool, once: bool) -> None:
    """Show the running daemon's health and peers; stays and refreshes in a terminal."""
    if as_json:
        click.echo(json.dumps({"health": fetch(settings, "/health"), "stats": fetch(settings, "/stats")}))
        return
    from rich.console import Console
    from rich.live import Live

    from dstack_vpn.cli.tables import status_view

    console = Console()
    view = status_view(fetch(settings, "/health"), fetch(settings, "/stats"))
    if once or not console.is_terminal:
        console.print(view)
        return
    with Live(view, console=console, auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(status_view(fetch(settings, "/health"), fetch(settings, "/stats")), refresh=True)


@click.command()
@with_settings(*_HTTP)
@click.pass_context
def healthcheck(ctx: click.Context, settings: Settings) -> None:
    """Exit with 0 if the running daemon is ready, else with 1: for a container's health check.

    Ready means that the tunnel carries the registry's members. A chain that is away does not change that.
    """
    ready = fetch(settings, "/ready").get("ready") is True
    click.echo("ready" if ready else "not ready")
    ctx.exit(0 if ready else 1)


def fetch(settings: Settings, path: str) -> dict[str, Any]:
    """GET a document from the running daemon; raises `AdminError`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.health_check_host, settings.health_check_host)
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{settings.health_check_port}{path}"
    # No proxy of the environment stands between us and our own daemon.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_DEADLINE) as reply:
            body = reply.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError as error:
        raise AdminError(
            f"no daemon answers at {url} ({getattr(error, 'reason', error)}): does 'dstack-vpn run' run, "
            "with this HEALTH_CHECK_HOST and HEALTH_CHECK_PORT?"
        ) from error
    try:
        document = json.loads(body)
    except ValueError as error:
        raise AdminError(f"what answers at {url} is not dstack-vpn") from error
    if not isinstance(document, dict):
        raise AdminError(f"what answers at {url} is not dstack-vpn")
    return document
