"""Completion by the shell's own protocol, and in bash with the generated script."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dstack_vpn.config import NETWORKS, OPTIONS

DSTACK_VPN = str(Path(sys.executable).parent / "dstack-vpn")
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"


class _Daemon(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        peers = [{"node_id": "web-1"}, {"node_id": "web-2"}, {"node_id": None}, {"node_id": "x\n\x1b"}]
        body = json.dumps({"node_id": "db", "peers": peers}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the base class
        pass


@pytest.fixture
def port() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Daemon)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield str(server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


def complete(line: str, **environment: str) -> list[str]:
    """Return the completions at the end of the line."""
    words = line.split(" ")
    protocol = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_DSTACK_VPN_COMPLETE": "bash_complete",
    }
    ran = subprocess.run(
        [DSTACK_VPN],
        check=False,
        env={"PATH": PATH, "STATE_DIR": "/nonexistent", "HEALTH_CHECK_PORT": "9", **protocol, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return [item.partition(",")[2] for item in ran.stdout.split("\n") if item]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dstack-vpn stat", ["status"]),
        ("dstack-vpn node l", ["list"]),
        ("dstack-vpn policy s", ["set", "show"]),
        ("dstack-vpn plan --network ", list(NETWORKS)),
        ("dstack-vpn run --log-level ", ["debug", "info", "warning", "error"]),
        ("dstack-vpn run --transport t", ["tcp", "tls"]),
        ("dstack-vpn doctor --backend k", ["kernel"]),
        ("dstack-vpn relay udp2tcp --log-format j", ["json"]),
        ("dstack-vpn completion z", ["zsh"]),
        ("dstack-vpn plan --net", ["--network"]),
        ("dstack-vpn node info w", []),
        ("dstack-vpn config diff ", ["current"]),
    ],
)
def test_words_complete(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dstack-vpn node info ", ["db", "web-1", "web-2"]),
        ("dstack-vpn node revoke w", ["web-1", "web-2"]),
        ("dstack-vpn policy explain web-1 d", ["db"]),
    ],
)
def test_nodes_are_those_of_the_daemon(line: str, offered: list[str], port: str) -> None:
    ends = time.monotonic() + 30
    while not (found := complete(line, HEALTH_CHECK_PORT=port)):  # it replied too late for a user
        assert time.monotonic() < ends
    assert found == offered


@pytest.mark.parametrize("environment", [{"HEALTH_CHECK_PORT": "x"}, {"HEALTH_CHECK_PORT": "0"}])
def test_settings_that_are_wrong_complete_to_nothing(environment: dict[str, str]) -> None:
    assert complete("dstack-vpn node info ", **environment) == []


def test_backups_are_those_of_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir(mode=0o700)
    names = ["20261123T121500.123Z", "20261124T121500.123Z"]
    for name in names:
        (tmp_path / "backups" / f"{name}.conf").write_text("")
    newest_first = names[::-1]
    where = f"--state-dir {tmp_path}"
    assert complete(f"dstack-vpn config show {where} ") == ["current", *newest_first]
    assert complete("dstack-vpn config rollback ", STATE_DIR=str(tmp_path)) == newest_first
    assert complete(f"dstack-vpn config diff {names[0]} 20261124", STATE_DIR=str(tmp_path)) == names[1:]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script() -> None:
    script = """
source <(dstack-vpn completion bash)
COMP_WORDS=(dstack-vpn plan --network base-) COMP_CWORD=3
_dstack_vpn_completion dstack-vpn
echo "${COMPREPLY[@]}"
complete -p dstack-vpn
"""
    ran = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={"PATH": PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.splitlines()[0] == "base-sepolia"
    assert "-F _dstack_vpn_completion dstack-vpn" in ran.stdout


def test_every_choice_is_a_value() -> None:
    with_choices = [option for option in OPTIONS if option.choices]
    assert {"NETWORK", "BACKEND", "TRANSPORT", "STALE_POLICY", "LOG_LEVEL"} <= {o.name for o in with_choices}
    for option in with_choices:
        assert all(option.parse(each) is not None for each in option.choices)
