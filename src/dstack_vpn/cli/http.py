"""Requests to the running daemon's HTTP endpoint."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Final

from dstack_vpn.cli.text import printable
from dstack_vpn.config import RelaySettings, Settings
from dstack_vpn.errors import AdminError

HTTP: Final = ("HEALTH_CHECK_HOST", "HEALTH_CHECK_PORT")
_DEADLINE: Final = 3.0
_LONGEST: Final = 64 << 20
"""The maximum size of a document in bytes. A longer one is truncated, and is then invalid JSON."""
_REFUSED: Final = frozenset({401, 421, 429})
"""Statuses that refuse the client; others may come with the requested document."""


def request_to(settings: Settings | RelaySettings, path: str) -> urllib.request.Request:
    """Return a request to the running daemon, with the API token if one is configured."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.health_check_host, settings.health_check_host)
    host = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(f"http://{host}:{settings.health_check_port}{path}")
    if settings.api_token is not None:
        request.add_header("Authorization", f"Bearer {settings.api_token.reveal()}")
    return request


def fetch(settings: Settings | RelaySettings, path: str, deadline: float = _DEADLINE) -> dict[str, Any]:
    """GET a document from the running daemon; raises `AdminError`. ``deadline`` is in seconds."""
    if not settings.health_check_port:
        raise AdminError("HEALTH_CHECK_PORT is 0, which disables the daemon's HTTP server: set a port")
    request = request_to(settings, path)
    url = request.full_url
    try:
        status, body = _get(request, deadline)
    except http.client.HTTPException as error:
        raise AdminError(f"the server at {url} is not dstack-vpn: its reply is not HTTP") from error
    except OSError as error:
        raise AdminError(
            f"no daemon answers at {url} ({getattr(error, 'reason', error)}): check that 'dstack-vpn run' "
            "runs with this HEALTH_CHECK_HOST and HEALTH_CHECK_PORT"
        ) from error
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise AdminError(f"the server at {url} is not dstack-vpn: its reply is not JSON") from error
    if not isinstance(document, dict):
        raise AdminError(f"the server at {url} is not dstack-vpn: its reply is not a JSON object")
    if status in _REFUSED:
        raise AdminError(f"the daemon at {url} refuses the request: {printable(str(document.get('error')))}")
    return document


def _get(request: urllib.request.Request, deadline: float) -> tuple[int, bytes]:
    """Return status and body; raises `OSError` and `http.client.HTTPException`."""
    # The environment's proxies are not used for a daemon on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=deadline) as reply:
            return reply.status, reply.read(_LONGEST)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_LONGEST)
