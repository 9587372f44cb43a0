"""The API of a real daemon: its OpenAPI description, its metrics, and reverse proxies."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from demo.lab import Lab, Tools
from demo.node import HEALTH_PORT, LabNode
from tests.netns_support import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
TOKEN = "a-token-for-the-tests-alone"
APP = 8000
"""The port of the proxies."""


# -- the OpenAPI description -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(tools: Tools) -> Iterator[LabNode]:
    """Yield a daemon that requires its token from all clients; the thread is in its namespace."""
    with Lab(tools) as lab:
        lab.start_chain()
        node, other = lab.add_node("a"), lab.add_node("b")
        for each in (node, other):
            lab.mint(each)
        lab.revoke(other)
        secret = lab.run.home / "token"
        secret.touch(mode=0o600)
        secret.write_text(TOKEN)
        node.start(API_TOKEN_FILE=str(secret), API_OPEN_TO="none", API_TRUSTED_PROXIES="192.0.2.0/24")
        node.wait_ready()
        with node.namespace.entered():
            yield node


SETTINGS = """\
[[operations]]
include-name = "GET /events"
parameters = { wait = 0 }  # a stream ends only if it is told to

[[operations]]
include-name = "GET /decisions"
# One parameter and no other is more than a description can ask for.
[operations.checks]
positive_data_acceptance.enabled = false
"""


def test_the_daemon_is_as_described(described: LabNode, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(SETTINGS)
    program = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [
            *(program, f"--config-file={config}", "run", f"http://127.0.0.1:{HEALTH_PORT}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "20", "--seed", "9"),
            *("--phases", "examples,coverage,fuzzing", "--request-timeout", "10", "--no-color"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: described.get("/live") == {"live": True}, "the daemon is alive")


def test_the_commands_give_the_token_and_say_so_where_they_have_none(described: LabNode) -> None:
    secret = described.home.parent / "token"
    for with_token in (True, False):
        environment = described.environment() | ({"API_TOKEN_FILE": str(secret)} if with_token else {})
        command = described.namespace.command(sys.executable, "-m", "dstack_vpn", "status", "--json")
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=30
        )
        if with_token:
            assert json.loads(done.stdout)["stats"]["node_id"] == "a"
        else:
            assert (done.returncode, done.stdout) == (1, "")
            assert "API_TOKEN_FILE" in done.stderr


def test_promtool_has_nothing_to_say_about_the_metrics(described: LabNode) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMTOOL: the metrics are NOT linted; scripts/setup test installs it")
    metrics = described.namespace.run(
        "curl", "-sS", "-H", f"Authorization: Bearer {TOKEN}", f"http://127.0.0.1:{HEALTH_PORT}/metrics"
    )
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert "dstack_vpn_event_to_peer_seconds_bucket" in metrics


# -- forward-auth ----------------------------------------------------------------------------------

# From docs/api.md, except for the addresses.
NGINX = """\
daemon off;
pid {home}/nginx.pid;
error_log {home}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
  uwsgi_temp_path {home}; scgi_temp_path {home};
  server {{
    listen 0.0.0.0:8000;
    location / {{
      auth_request /vpn-auth;
      auth_request_set $vpn_node $upstream_http_x_vpn_node;
      proxy_set_header X-Vpn-Node $vpn_node;
      proxy_pass http://127.0.0.1:8001;
    }}
    location = /vpn-auth {{
      internal;
      proxy_pass http://127.0.0.1:8080/auth;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Real-IP $remote_addr;
    }}
  }}
  server {{
    listen 127.0.0.1:8001;
    location / {{ return 200 "hello $http_x_vpn_node"; }}
  }}
}}
"""
CADDY = """\
{{
  admin off
  auto_https off
  storage file_system {home}
}}
http://:8000 {{
  forward_auth 127.0.0.1:8080 {{
    uri /auth
    copy_headers X-Vpn-Node
  }}
  respond "hello {{http.request.header.X-Vpn-Node}}"
}}
"""
Proxy = Callable[[LabNode, Path], "subprocess.Popen[str]"]
START: Final = 60.0
"""Seconds for the start of a proxy, which is not under test.

The exit of a proxy is reported immediately.
"""


def nginx(node: LabNode, home: Path) -> "subprocess.Popen[str]":
    config = home / "nginx.conf"
    config.write_text(NGINX.format(home=home))
    return node.namespace.popen("nginx", "-c", config, "-e", home / "nginx.log")


def caddy(node: LabNode, home: Path) -> "subprocess.Popen[str]":
    config = home / "Caddyfile"
    config.write_text(CADDY.format(home=home))
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin:/usr/sbin"}
    log = (home / "caddy.log").open("w")
    with log:
        return node.namespace.popen(
            *(str(shutil.which("caddy")), "run", "--config", config, "--adapter", "caddyfile"),
            env=environment,
            stderr=log,
        )


@contextmanager
def proxied(proxy: Proxy, node: LabNode, home: Path) -> Iterator[None]:
    if shutil.which(proxy.__name__) is None:
        pytest.skip(
            f"NO {proxy.__name__.upper()}: forward-auth is NOT tested with it; scripts/setup installs it"
        )
    name = proxy.__name__
    process = proxy(node, home)
    try:
        wait_until(lambda: process.poll() is not None or status(node, "127.0.0.1"), f"{name} replies", START)
        assert process.poll() is None, f"{name} has ended: {(home / f'{name}.log').read_text()}"
        yield
    finally:
        process.terminate()
        process.wait(5)


def status(node: LabNode, address: str, *headers: str) -> str:
    """Return a proxy's reply to a client on a node's machine: the text and the status."""
    more = [word for header in headers for word in ("-H", header)]
    return node.namespace.run(
        *("curl", "-s", "-m", "5", "-w", " %{http_code}", *more, f"http://{address}:{APP}/"), check=False
    ).removesuffix(" 000")


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_lets_members_in_and_says_who_they_are(lab: Lab, proxy: Proxy, tmp_path: Path) -> None:
    a, b, c = (lab.nodes[name] for name in "abc")
    with proxied(proxy, a, tmp_path):
        assert status(b, a.address) == "hello b 200"
        assert status(c, a.address) == "hello c 200"
        # From outside of the tunnel, with forged headers.
        forged = f"X-Forwarded-For: {b.address}"
        for headers in ((), (forged,), (f"X-Real-IP: {b.address}",), (forged, f"X-Real-IP: {b.address}")):
            assert status(b, a.underlay, *headers).endswith(" 401")
        # A member with another's address in a header is itself, or is refused.
        for headers in ((f"X-Forwarded-For: {c.address}",), (f"X-Real-IP: {c.address}",)):
            assert status(b, a.address, *headers).endswith(("hello b 200", " 401"))
        assert status(b, a.address, "Authorization: Basic b3JpZ2luYWw6Y2xpZW50") == "hello b 200"
        lab.lost(lab.revoke(c), c.public_key, (a, b))
        assert a.get(f"/whois?ip={c.address}") == {"error": "no member has this address"}
        assert status(b, a.address) == "hello b 200"
