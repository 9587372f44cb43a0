"""The dashboard: a page of static files, which contain no data and therefore need no token.

The page reads its data from the API, with the token if one is required. Its content security policy
allows only its own files.
"""

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from aiohttp import web

from dstack_vpn.adapters.web.server import Handler, Route

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PATHS: Final = {
    "/": "index.html",
    **{
        f"/ui/{name}": name
        for name in (
            *(
                "app.js",
                "api.js",
                "charts.js",
                "mesh.js",
                "model.js",
                "node.js",
                "peers.js",
                "policy.js",
                "registry.js",
                "text.js",
            ),
            *("style.css", "icon.svg"),
        )
    },
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


class Page:
    """Implements `server.Part`."""

    open_paths = frozenset(_PATHS)
    slow_paths = frozenset[str]()

    def routes(self) -> Iterable[Route]:
        """See `server.Part.routes`."""
        return (Route(path, _file(name)) for path, name in _PATHS.items())

    async def close(self) -> None:
        """See `server.Part.close`."""


def _file(name: str) -> Handler:
    body = files("dstack_vpn.adapters.web").joinpath("page", name).read_bytes()
    headers = {
        "Content-Type": _TYPES[name.rpartition(".")[2]],
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:20]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY,
        "X-Frame-Options": "DENY",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }

    async def handle(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers={k: v for k, v in headers.items() if k != "Content-Type"})
        return web.Response(body=body, headers=headers)

    return handle
