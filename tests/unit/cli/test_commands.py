"""Exit codes and error paths of every command: 0 ok, 1 failed, 2 usage, 78 configuration."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn import __version__
from dstack_vpn.cli import _COMMANDS, main
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError, DeviceError

COMMANDS = sorted(_COMMANDS)


# -- the framework ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_there_for_every_command(cli: Cli, name: str) -> None:
    ran = cli(*name.split(), "--help")
    assert ran.code == 0
    assert ran.out.startswith("Usage: dstack-vpn")


@pytest.mark.parametrize("group", ["node", "contract"])
def test_help_has_examples(cli: Cli, group: str) -> None:
    listed = cli(group, "--help").out.partition("Commands:")[2]
    for line in listed.strip().splitlines():
        shown = cli(group, line.split()[0], "--help").out
        assert f"dstack-vpn {group} {line.split()[0]}" in shown.partition("Example")[2], line


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run", "--nonsense"], ["completion", "tcsh"], ["pubkey", "x"]]
)
def test_usage_is_2(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error: " in ran.err


KEY = "B" * 42 + "A="


@pytest.mark.parametrize(
    "arguments",
    [
        ("set-endpoint", "web", "10.77.0.2:51820"),
        (
            "register",
            "web",
            "--to",
            "0x" + "1" * 40,
            "--public-key",
            KEY,
            "--endpoint",
            "10.77.9.9:1",
        ),
    ],
)
def test_an_endpoint_within_the_vpn_is_not_sent(cli: Cli, arguments: tuple[str, ...]) -> None:
    ran = cli("node", *arguments, CONTRACT_PRIVATE_KEY="1" * 64)
    assert ran.code == 2
    assert "an address of the VPN itself leads back into the tunnel" in ran.err


@pytest.mark.parametrize(
    "arguments", [["run"], ["config", "list"], ["status"], ["healthcheck"], ["plan"], ["node", "list"]]
)
def test_a_bad_setting_is_78_and_all_are_told(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments, LISTEN_PORT="x", MTU="1")
    assert (ran.code, ran.out) == (78, "")
    assert "LISTEN_PORT: expected" in ran.err
    assert "MTU: expected" in ran.err


def test_run_needs_a_key(cli: Cli) -> None:
    ran = cli("run")
    assert ran.code == 78
    assert "WIREGUARD_PRIVATE_KEY (or WIREGUARD_PRIVATE_KEY_FILE): is not set" in ran.err


def _end(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def body(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "invoke", lambda _: body())


def test_errors_on_purpose_are_told_without_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    group = BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [DeviceError("gone")])])
    for error, words in ((AdminError("no"), "error: no\n"), (group, "error: gone\n")):
        with monkeypatch.context() as patch:
            _end(patch, error)
            ran = cli("version")
        assert (ran.code, ran.err) == (1, words)


def test_interruption_is_130_and_a_broken_pipe_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (BrokenPipeError(), 1)):
        with monkeypatch.context() as patch:
            _end(patch, error)
            assert cli("version").code == code


def test_a_bug_stays_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ZeroDivisionError(), BaseExceptionGroup("tasks", [ZeroDivisionError()])):
        with monkeypatch.context() as patch, pytest.raises((ZeroDivisionError, BaseExceptionGroup)):
            _end(patch, error)
            cli("version")


def test_the_table_of_commands_is_sorted_and_true() -> None:
    assert list(_COMMANDS) == sorted(_COMMANDS)
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None and command.name == name


# -- small commands -----------------------------------------------------------------------------------


def test_version(cli: Cli) -> None:
    assert cli("version").out == f"dstack-vpn {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli: Cli, shell: str) -> None:
    ran = cli("completion", shell)
    assert ran.code == 0
    assert "_DSTACK_VPN_COMPLETE" in ran.out


def test_keys_are_made_and_derived(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    private = cli("keygen").out
    assert len(base64.b64decode(private.strip(), validate=True)) == 32
    assert private != cli("keygen").out
    monkeypatch.setattr("sys.stdin", io.StringIO(private))
    assert cli("pubkey").out == f"{derive(PrivateKey.parse(private.strip()))}\n"


@pytest.mark.parametrize("text", ["", "x", "A" * 43, "A" * 44, "A" * 10_000, "\n\n", "kéy"])
def test_pubkey_refuses_what_is_no_key(cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    ran = cli("pubkey")
    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.err
        == "error: standard input: not a WireGuard key: expected 44 characters of base64 for 32 bytes\n"
    )


# -- config -------------------------------------------------------------------------------------------


def test_config_without_any_history(cli: Cli, tmp_path: Path) -> None:
    where = {"STATE_DIR": str(tmp_path), "WIREGUARD_CONFIG": str(tmp_path / "wg0.conf")}
    assert json.loads(cli("config", "list", "--json", **where).out) == {"pinned": False, "backups": []}
    assert "No backup was pinned" in cli("config", "resume", **where).out
    for arguments in (
        ["show"],
        ["show", "nope"],
        ["diff", "nope"],
        ["rollback", "nope"],
        ["rollback", "../x"],
    ):
        ran = cli("config", *arguments, **where)
        assert ran.code == 1
        assert ran.err.startswith("error: ")


def test_config_show_hides_the_key(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text("[Interface]\nPrivateKey = c2VjcmV0\n")
    ran = cli("config", "show", STATE_DIR=str(tmp_path), WIREGUARD_CONFIG=str(file))
    assert ran.code == 0
    assert "c2VjcmV0" not in ran.out and "(hidden)" in ran.out


# -- status and healthcheck ---------------------------------------------------------------------------


class _Daemon(BaseHTTPRequestHandler):
    """A daemon's HTTP endpoint with answers of the test's choice."""

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
    """Settings that lead to a running endpoint."""
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
    """RELAY_LISTEN means something else for a relay than for a node."""
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stat"], "No such command 'stat'. Did you mean 'status'?"),
        (["node", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["plan", "--netwrok", "base"], "No such option '--netwrok'. Did you mean '--network'?"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(cli: Cli, arguments: list[str], said: str) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_nothing_is_suggested_for_what_is_near_to_no_command(cli: Cli) -> None:
    assert "Did you mean" not in cli("xyzzy").err


def test_the_version_is_a_flag_too(cli: Cli) -> None:
    assert cli("--version") == cli("version")
