"""No secret of an RPC URL or of a proxy reaches any output, even if endpoints repeat them."""

import http.client
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from demo.chain import InsideConnection
from demo.lab import Lab
from demo.node import HEALTH_PORT, LabNode
from tests.commands import forgotten_logging, run_here
from tests.netns import echoing
from tests.netns_support import wait_until

from dstack_vpn.adapters.chain.url import RpcUrl

pytestmark = [pytest.mark.netns, pytest.mark.anvil]

MARKS = ("pl4nted", "cGw0bnRl", "706c346e746564")
"""The beginning of all planted secrets: plain, in base64 and in hexadecimal."""
LOGIN = "pl4nted%2Fus3r:pl4nted%20p%40ss%26%22word@"
HOST = "pl4ntedh0stk3y77.rpc.example.org"
REST = "/v2/pl4nted%2Bp4thk3y%3C/?apikey=pl4nted%2Fqu3ry%22k3y&x=pl4nted~t41l#pl4ntedfr4g"
PORT = 3999
LOOK = 0.1
"""Seconds between two reads of all outputs of the daemon. Each costs it some milliseconds."""
ACCOUNT = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


SENDING = (
    *("html", "message", "late-eth_sendRawTransaction", "late-eth_getTransactionCount"),
    *(
        "late-eth_estimateGas",
        "revert-eth_call",
        "revert-eth_estimateGas",
        "result-eth_getTransactionReceipt",
    ),
)
"""The kinds of replies with which a deployment fails, each at another step."""


FAILING = (
    *("html", "bracket", "reason", "message", "data", "nested", "text", "redirect", "header", "result"),
    *("late-eth_call", "revert-eth_call", "result-eth_getBlockByNumber"),
)
"""The kinds of HTTP replies with which a session fails."""


def url(scheme: str, kind: str) -> str:
    """Return the URL of an endpoint that sends a kind of replies."""
    return f"{scheme}://{LOGIN}{kind.replace('_', '-').lower()}.{HOST}{REST}"


@contextmanager
def echoes(node: LabNode, chain: str) -> Iterator[None]:
    command = (sys.executable, echoing.__file__, str(PORT), chain)
    server = node.namespace.popen(*command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() in (b"ready", "ready")
        yield
    finally:
        server.kill()
        server.wait()


def body(node: LabNode, path: str) -> str:
    connection = InsideConnection(node.namespace.socket, "127.0.0.1", HEALTH_PORT, 3.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def command(node: LabNode, environment: Mapping[str, str], *arguments: str) -> str:
    """Return the exit code and the output of a command."""
    path = os.environ["PATH"]  # noqa: TID251  # for the command
    with node.namespace.entered(), forgotten_logging():
        done = run_here(arguments, {**environment, "PATH": path})
    assert "Traceback" not in done.err, done.err
    return f"{done.code}\n{done.out}\n{done.err}"


def leaks(texts: Mapping[str, str]) -> dict[str, str]:
    """Return an excerpt around the first secret of each text that has a secret."""
    found = {}
    for name, text in texts.items():
        low = text.lower()
        places = [at for mark in MARKS if (at := low.find(mark.lower())) >= 0]
        if places:
            found[name] = text[max(min(places) - 150, 0) : min(places) + 150]
    return found


def test_no_secret_of_an_endpoint_reaches_any_output(empty_lab: Lab, tmp_path: Path) -> None:
    lab = empty_lab
    node = lab.add_node("a")
    lab.mint(node)
    chain = node.settings["RPC_URL"].replace("ws://", "http://")
    every = [url("http", kind) for kind in FAILING] + [url("ws", kind) for kind in echoing.WS[:-1]]
    every.append(f"http://{LOGIN}direct.{HOST}{REST}")
    more = {
        "RPC_URL": ",".join([*every, url("http", "late-eth_getLogs")]),
        "NO_PROXY": f"direct.{HOST}",
        "HTTP_PROXY": f"http://pl4nted%2Fpr0xy:pl4nted%20pr0xyp%40ss@127.0.0.1:{PORT}",
        "SYNC_INTERVAL": "1s",
    }
    texts: dict[str, str] = {}
    with echoes(node, chain):
        node.start(**more)

        def tried() -> bool:
            time.sleep(LOOK)
            for path in ("/health", "/stats", "/metrics", "/events?wait=0", "/peers", "/decisions"):
                texts[path] = texts.get(path, "") + body(node, path)
            lines = [line for line in node.log.read_text().splitlines() if "rpc.endpoint_left" in line]
            return all(any(RpcUrl.parse(url).name in line for line in lines) for url in every)

        wait_until(tried, "each endpoint is left", 90.0)
        last = RpcUrl.parse(url("http", "late-eth_getLogs")).name
        wait_until(
            lambda: any("rpc.connected" in x and last in x for x in node.log.read_text().splitlines()),
            "the last endpoint is followed",
            60.0,
        )
        lab.mint(lab.add_node("b"))
        wait_until(lambda: "no logs" in body(node, "/health") + node.log.read_text(), "refused logs", 30.0)
        assert tried()
        node.stop()

        # Restart the daemon with an endpoint that works.
        more["RPC_URL"] = ",".join([*every[-3:], node.settings["RPC_URL"]])
        node.start(**more)
        node.wait_ready(60.0)
        assert tried()
        state = node.home / "state"
        assert stat.S_IMODE((state / "settings.json").stat().st_mode) == 0o600
        at_once = [url for url in every if "subscribe" not in url]
        failing = {
            **node.environment(),
            **more,
            "CONTRACT_PRIVATE_KEY": ACCOUNT,
            "RPC_URL": ",".join(at_once),
        }
        bundle = tmp_path / "bundle.tar.gz"
        for arguments in (
            *(("status", "--once"), ("doctor",), ("doctor", "--json"), ("plan",), ("healthcheck",)),
            *(("node", "list"), ("node", "info", "a"), ("node", "verify", "a"), ("audit", "show")),
            ("config", "list"),
            ("support-bundle", "--output", str(bundle), "--log", str(node.log)),
        ):
            texts[" ".join(arguments)] = command(node, failing, *arguments)
        for kind in SENDING:
            told = command(
                node, failing | {"RPC_URL": url("http", kind)}, "contract", "deploy", "--timeout", "1"
            )
            assert told[:2] in {"1\n", "75"}, told
            texts[f"contract deploy, {kind}"] = told
        for file in sorted(path for path in state.rglob("*") if path.is_file()):
            if file.name != "settings.json":
                texts[str(file)] = file.read_bytes().decode("latin-1")
        node.stop()
    texts["log"] = node.log.read_text()
    with tarfile.open(bundle) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            texts[f"bundle: {member.name}"] = content.read().decode()
    (tmp_path / "all.txt").write_text("\n".join(f"==== {name}\n{text}" for name, text in texts.items()))
    assert texts["node list"].startswith("1\n"), texts["node list"]
    assert leaks(texts) == {}
