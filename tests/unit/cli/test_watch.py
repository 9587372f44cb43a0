"""`status` and `healthcheck`, against a test's HTTP endpoint."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.unit.cli.conftest import Cli


class _Daemon(BaseHTTPRequestHandler):
    """A daemon's HTTP endpoint with one answer for each path."""

    answers: dict[str, tuple[int, bytes]] = {}  # noqa: RUF012  # set by the fixture

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, b"<html>"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the base class
        pass


@pytest.fixture
def daemon() -> Iterator[dict[str, str]]:
    """Yield the settings for a running endpoint."""
    _Daemon.answers = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Daemon)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield {"HEALTH_CHECK_PORT": str(server.server_port)}
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("ready", "status", "code"), [(True, 200, 0), (False, 503, 1)])
def test_healthcheck_tells_ready_from_not(
    cli: Cli, daemon: dict[str, str], ready: bool, status: int, code: int
) -> None:
    components = [
        {"name": "device", "status": "ok", "reason": ""},
        {"name": "chain", "status": "failed", "reason": "refused\x1b[31m"},
    ]
    _Daemon.answers["/health"] = (status, json.dumps({"ready": ready, "components": components}).encode())
    ran = cli("healthcheck", **daemon)
    assert (ran.code, ran.out) == (
        code,
        ("ready" if ready else "not ready") + "\nchain: refused\\x1b[31m\n",
    )


def test_healthcheck_knows_a_relay_by_its_mode(cli: Cli, daemon: dict[str, str]) -> None:
    """RELAY_LISTEN has another meaning on a relay: exit code 78 without RELAY_MODE, 0 with it."""
    _Daemon.answers["/health"] = (200, json.dumps({"ready": True, "components": []}).encode())
    listen = {"RELAY_LISTEN": "127.0.0.1:51821", "RELAY_TO": "tcp://192.0.2.1:443"}
    assert cli("healthcheck", **daemon, **listen).code == 78
    assert cli("healthcheck", **daemon, **listen, RELAY_MODE="udp2tcp").code == 0


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"null", b'"ready"', b"\xff", b"[" * 99_999])
def test_what_is_no_daemon_is_not_healthy(cli: Cli, daemon: dict[str, str], body: bytes) -> None:
    _Daemon.answers["/ready"] = _Daemon.answers["/health"] = (200, body)
    for command in (["healthcheck"], ["status", "--json"]):
        ran = cli(*command, **daemon)
        assert ran.code == 1
        assert "is not dstack-vpn" in ran.err


@pytest.mark.parametrize(
    "arguments", [["healthcheck"], ["status"], ["status", "--json"], ["status", "--once"]]
)
def test_no_daemon_is_told(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments, HEALTH_CHECK_PORT="9")
    assert (ran.code, ran.out) == (1, "")
    assert "no daemon answers at http://127.0.0.1:9/" in ran.err


HOSTILE = "[red]x\x1b[31m\n"


def test_status_shows_text_as_text(cli: Cli, daemon: dict[str, str]) -> None:
    peer = {
        "node_id": HOSTILE,
        "token": 3,
        "addresses": ["10.77.0.4/32", "fd00::4/128"],
        "endpoint": None,
        "transport": "tls",
        "last_handshake": None,
        "rx_bytes": 2048,
        "tx_bytes": 0,
    }
    health = {"status": "ok", "components": [{"name": "rpc", "status": "ok", "reason": HOSTILE}]}
    stats = {
        "node_id": "web",
        "interface": "wg0",
        "addresses": [],
        "tokens": 1,
        "peers": [peer],
        "chain": {"head": 12},
    }
    _Daemon.answers = {
        "/health": (200, json.dumps(health).encode()),
        "/stats": (200, json.dumps(stats).encode()),
    }
    shown = cli("status", **daemon).out
    assert "\x1b" not in shown
    assert "[red]x\\x1b[31m\\x0a" in shown
    assert "10.77.0.4" in shown and "\\x0afd00" not in shown and "fd00::4" in shown
    assert json.loads(cli("status", "--json", **daemon).out) == {"health": health, "stats": stats}
