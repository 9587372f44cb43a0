"""Third-party reverse proxies in front of the API: access, and the request rate."""

import asyncio
import contextlib
import ipaddress
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.unit.adapters.web.serving import TOKEN, FixedView, serving

from dstack_vpn.adapters.web.access import Policy

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None or os.geteuid() != 0,
    reason="NO NGINX, or not root: what a proxy here opens is NOT tested; scripts/setup test installs it",
)
CLOSED = ("/peers", "/metrics", "/stats", "/events?wait=0", "/decisions?node=web-1", "/peers/web-1")
MEMBER = "127.0.0.9"
"""A loopback address that `FixedView` reports as a member's."""
COMMON = """\
daemon off;
user {user};
pid {home}/nginx.pid;
error_log {home}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
  uwsgi_temp_path {home}; scgi_temp_path {home};
  server {{
    listen 0.0.0.0:{listen};
    {locations}
  }}
}}
"""
BARE = "location / {{ proxy_pass http://127.0.0.1:{port}; }}"
NEWER = (
    "location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; "
    'proxy_set_header Connection ""; proxy_set_header Host $http_host; }}'
)
# From docs/api.md.
FORWARD_AUTH = """
    location / {{
      auth_request /vpn-auth;
      auth_request_set $vpn_node $upstream_http_x_vpn_node;
      add_header X-Seen-Node $vpn_node;
      root {home}/www;
    }}
    location = /vpn-auth {{
      internal;
      proxy_pass http://127.0.0.1:{port}/auth;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Real-IP $remote_addr;
    }}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a folder that nginx's user may read.

    Pytest removes other users' access to its own folders whenever another worker begins.
    """
    with tempfile.TemporaryDirectory(prefix="dstack-vpn-nginx-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@asynccontextmanager
async def nginx(home: Path, locations: str, port: int, user: str = "nobody nogroup") -> AsyncIterator[str]:
    """Run an nginx in front of a port; yield its URL."""
    listen = _port()
    config = home / "nginx.conf"
    inside = locations.format(home=home, port=port)
    config.write_text(COMMON.format(home=home, listen=listen, user=user, locations=inside))
    process = await asyncio.create_subprocess_exec(
        "nginx", "-p", str(home), "-c", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _answers(listen)
        yield f"http://127.0.0.1:{listen}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _port() -> int:
    """Return a free port below the ephemeral range, because the tests make many connections."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("0.0.0.0", port))
            return port


async def _answers(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def _status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as reply:
        return reply.status


async def _lets_nothing_through(proxy: str) -> None:
    port = proxy.rpartition(":")[2]
    for path in CLOSED:
        for host in (f"127.0.0.1:{port}", "127.0.0.1:8080", "localhost", "vpn.example.org", "203.0.113.5"):
            assert await _status(proxy + path, Host=host) in {401, 421}, (path, host)
        assert await _status(proxy + path, Authorization=f"Bearer {TOKEN}") == 200
    assert await _status(f"{proxy}/live") == 200


@pytest.mark.parametrize("locations", [BARE, NEWER])
async def test_an_nginx_that_adds_nothing_opens_nothing(locations: str, home: Path) -> None:
    async with (
        serving(policy=Policy(TOKEN)) as served,
        nginx(home, locations, served.port) as proxy,
    ):
        await _lets_nothing_through(proxy)
        assert await _status(f"{served.url}/peers") == 200, "this machine's root still gets in"


async def test_an_nginx_that_runs_as_root_and_adds_nothing_opens_nothing(home: Path) -> None:
    async with (
        serving(policy=Policy(TOKEN)) as served,
        nginx(home, BARE, served.port, user="root") as proxy,
    ):
        await _lets_nothing_through(proxy)


FORWARDER = """
import contextlib, encodings.idna, os, select, socket, sys
os.setuid(65534)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    upstream = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    with client, upstream, contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select([client, upstream], [], [])
            data = ready[0].recv(65536)
            if not data:
                break
            (upstream if ready[0] is client else client).sendall(data)
"""
"""Forwards unchanged bytes, as haproxy without `forwardfor`, nginx's stream module, or socat."""


async def test_a_proxy_that_changes_no_byte_opens_nothing() -> None:
    port = _port()
    async with serving(policy=Policy(TOKEN)) as served:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FORWARDER, str(port), str(served.port)
        )
        try:
            await _answers(port)
            await _lets_nothing_through(f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            await process.wait()


async def test_a_page_of_400_parts_behind_forward_auth_is_whole(home: Path) -> None:
    site = home / "www"
    site.mkdir()
    for number in range(400):
        (site / f"{number}.js").write_text("x" * 1000)
    proxies = (ipaddress.ip_network("127.0.0.1/32"),)
    policy = Policy(TOKEN, loopback=False, proxies=proxies)
    async with (
        serving(FixedView(), policy) as served,
        nginx(home, FORWARD_AUTH, served.port) as proxy,
        aiohttp.TCPConnector(limit=100, local_addr=(MEMBER, 0)) as connector,
        aiohttp.ClientSession(connector=connector) as browser,
    ):

        async def fetch(number: int) -> tuple[int, str | None]:
            async with browser.get(f"{proxy}/{number}.js") as reply:
                await reply.read()
                return reply.status, reply.headers.get("X-Seen-Node")

        for _ in range(2):
            parts = await asyncio.gather(*map(fetch, range(400)))
            assert set(parts) == {(200, "web-1")}
        # A flood of requests is refused, with a status that nginx passes on.
        flood = await asyncio.gather(*(fetch(number % 400) for number in range(3000)))
        assert {status for status, _ in flood} <= {200, 403}
