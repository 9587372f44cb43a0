"""`dev`: errors if the endpoint is not a development chain.

tests/compose covers the success case.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn import config
from dstack_vpn.cli import dev
from dstack_vpn.errors import AdminError

SETTINGS: Final = config.load({}, {"NETWORK": "local"})


class _Chain(BaseHTTPRequestHandler):
    """A JSON-RPC server with one answer for each method."""

    answers: dict[str, Any] = {}  # noqa: RUF012  # set by the fixture

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"id": request["id"], **self.answers[request["method"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the base class
        pass


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Yield the settings for a running JSON-RPC server."""
    monkeypatch.setattr(dev, "PATIENCE", 0.0)
    _Chain.answers = {"eth_chainId": {"result": "0x7a69"}, "eth_getCode": {"result": "0x"}}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Chain)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield {"RPC_URL": f"ws://127.0.0.1:{server.server_port}"}
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_registry_that_is_there_is_left_alone(cli: Cli, chain: dict[str, str]) -> None:
    _Chain.answers["eth_getCode"] = {"result": "0x60"}
    ran = cli("dev", "deploy", **chain)
    assert (ran.code, ran.out.split(":")[0]) == (0, "The registry exists")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"eth_chainId": {"result": "0x1"}}, "serves chain 1, but chain 31337"),
        ({"eth_accounts": {"result": []}}, "no unlocked accounts"),
        (
            {"eth_chainId": {"error": {"message": "busy"}}},
            "the development chain: eth_chainId: the endpoint replied busy",
        ),
        (
            {
                "eth_accounts": {"result": ["0x" + "11" * 20]},
                "eth_sendTransactionSync": {"result": {"status": "0x1", "contractAddress": "0x" + "22" * 20}},
            },
            "but CONTRACT_ADDRESS is 0x5fbdb",
        ),
    ],
)
def test_what_is_wrong_is_said(cli: Cli, chain: dict[str, str], answers: dict[str, Any], said: str) -> None:
    _Chain.answers |= answers
    ran = cli("dev", "deploy", **chain)
    assert ran.code == 1
    assert said in ran.err


def test_status_asks_a_websocket_endpoint_by_http(cli: Cli, chain: dict[str, str]) -> None:
    _Chain.answers["eth_blockNumber"] = {"result": "0x10"}
    ran = cli("dev", "status", **chain)
    assert (ran.code, ran.out) == (0, "block 16\n"), ran.err


def test_no_chain_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "PATIENCE", 0.0)
    ran = cli("dev", "status", RPC_URL="http://127.0.0.1:9")
    assert ran.code == 1
    assert "the development chain: eth_blockNumber:" in ran.err


@pytest.mark.parametrize(
    ("name", "said"), [("localhost", None), ("192.0.2.1", "none of its addresses belongs to this machine")]
)
def test_the_address_is_one_of_this_machine(cli: Cli, name: str, said: str | None) -> None:
    if said is None:
        assert dev._own_address(SETTINGS, name) == "127.0.0.1"
    else:
        with pytest.raises(AdminError, match=said):
            dev._own_address(SETTINGS, name)
