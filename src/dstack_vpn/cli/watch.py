"""`status` and `healthcheck`: what a running daemon says about itself over its HTTP endpoint."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from dstack_vpn import config
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.text import printable
from dstack_vpn.config import RelaySettings, Settings
from dstack_vpn.errors import AdminError

HTTP: Final = ("HEALTH_CHECK_HOST", "HEALTH_CHECK_PORT")
_DEADLINE: Final = 3.0
_LONGEST: Final = 64 << 20
"""Bytes of a document; of a longer one the rest is left out, and so it is not JSON."""
_REFUSED: Final = frozenset({401, 421, 429})
"""Statuses that say something about the asker; others may come with what was asked for."""
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, once.")
@click.option("--once", is_flag=True, help="Print once instead of staying.")
@with_settings(*HTTP)
def status(settings: Settings, *, as_json: bool, once: bool) -> None:
    """Show the running daemon's health and peers; stays and refreshes in a terminal."""
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
@click.option("--health-check-host", metavar="TEXT", help="Where the daemon binds HTTP.")
@click.option("--health-check-port", metavar="TEXT", help="Its port.")
def healthcheck(config_file: Path | None, **values: str | None) -> None:
    """Exit with 0 if the running daemon or relay is ready, else with 1: for a container's health check.

    Ready means that the tunnel carries the registry's members; a chain that is away does not change that.
    Whatever a person should look at is printed either way, a component a line.
    """
    flags = {key: text for key, text in values.items() if text is not None}
    health = fetch(config.load_either(flags, file=config_file), "/health")
    ready = health.get("ready") is True
    click.echo("ready" if ready else "not ready")
    for component in _components(health):
        click.echo(printable(component))
    click.get_current_context().exit(0 if ready else 1)


def _components(health: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it should be, one a line."""
    listed = health.get("components")
    for component in listed if isinstance(listed, list) else ():
        if isinstance(component, dict) and component.get("status") != "ok":
            yield f"{component.get('name')}: {component.get('reason')}"


def request_to(settings: Settings | RelaySettings, path: str) -> urllib.request.Request:
    """A request to the running daemon, with its token where there is one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.health_check_host, settings.health_check_host)
    host = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(f"http://{host}:{settings.health_check_port}{path}")
    if settings.api_token is not None:
        request.add_header("Authorization", f"Bearer {settings.api_token.reveal()}")
    return request


def fetch(settings: Settings | RelaySettings, path: str, deadline: float = _DEADLINE) -> dict[str, Any]:
    """GET a document from the running daemon; raises `AdminError`. ``deadline`` in seconds."""
    if not settings.health_check_port:
        raise AdminError("HEALTH_CHECK_PORT is 0, so there is no status page to ask: set it")
    request = request_to(settings, path)
    url = request.full_url
    try:
        status, body = _get(request, deadline)
    except http.client.HTTPException as error:
        raise AdminError(f"what answers at {url} does not speak HTTP, so it is not dstack-vpn") from error
    except OSError as error:
        raise AdminError(
            f"no daemon answers at {url} ({getattr(error, 'reason', error)}): does 'dstack-vpn run' run, "
            "with this HEALTH_CHECK_HOST and HEALTH_CHECK_PORT?"
        ) from error
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise AdminError(f"what answers at {url} is not dstack-vpn") from error
    if not isinstance(document, dict):
        raise AdminError(f"what answers at {url} is not dstack-vpn")
    if status in _REFUSED:
        raise AdminError(f"the daemon at {url} refuses this: {printable(str(document.get('error')))}")
    return document


def _get(request: urllib.request.Request, deadline: float) -> tuple[int, bytes]:
    """Return status and body; raises `OSError` and `http.client.HTTPException`."""
    # No proxy of the environment stands between us and our own daemon.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=deadline) as reply:
            return reply.status, reply.read(_LONGEST)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_LONGEST)
