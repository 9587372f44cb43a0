"""Error messages of commands if another program listens on the port."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.unit.cli.conftest import Cli

NOT_HTTP = [
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x15\x03\x03\x00\x02\x02\x46",
    b"",
    b"y\n" * 100_000,
    b"HTTP/9 \r\n\r\n",
]


@contextlib.contextmanager
def speaking(data: bytes) -> Iterator[int]:
    """Answer every connection to a port with the same bytes; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize("data", NOT_HTTP)
@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["healthcheck"], ["top"]])
def test_a_port_that_is_not_http_is_a_sentence(cli: Cli, command: list[str], data: bytes) -> None:
    with speaking(data) as port:
        ran = cli(*command, HEALTH_CHECK_PORT=str(port))
    assert ran.code == 1
    assert f"127.0.0.1:{port}" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("data", NOT_HTTP)
def test_a_dev_chain_that_is_not_http_is_a_sentence(cli: Cli, data: bytes) -> None:
    with speaking(data) as port:
        ran = cli("dev", "status", RPC_URL=f"http://127.0.0.1:{port}")
    assert ran.code == 1
    assert "the development chain: eth_blockNumber: " in ran.err
    assert "Traceback" not in ran.err


def test_without_a_port_there_is_nothing_to_ask(cli: Cli) -> None:
    ran = cli("healthcheck", RELAY_MODE="udp2tcp", RELAY_LISTEN="127.0.0.1:1", RELAY_TO="tcp://192.0.2.1:443")
    assert ran.code == 1
    assert "HEALTH_CHECK_PORT is 0" in ran.err
