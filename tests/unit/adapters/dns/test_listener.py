"""Listening on single addresses, on wildcards, and on addresses that are not available."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs
from tests.integration.support import eventually
from tests.ports import free_port
from tests.unit.adapters.dns.test_server import Told

from dstack_vpn.adapters.binding import refusal
from dstack_vpn.adapters.dns import server as responder
from dstack_vpn.adapters.dns.listener import is_private, plain
from dstack_vpn.adapters.dns.server import DnsServer
from dstack_vpn.core.model import SocketAddress

needs_dig = pytest.mark.skipif(shutil.which("dig") is None, reason="NO DIG: `make test` installs it")


@asynccontextmanager
async def listening(*extra: SocketAddress) -> AsyncIterator[DnsServer]:
    server = DnsServer(Told(own=frozenset()), 0, extra)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        yield server
        task.cancel()


async def dig(host: str, port: int, *more: str) -> str:
    command = (
        "dig",
        f"@{host}",
        "-p",
        str(port),
        "+time=3",
        "+tries=1",
        "+short",
        *more,
        "web.vpn.internal",
        "A",
    )
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode().strip()


@needs_dig
@pytest.mark.parametrize(
    ("listen", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.2"), ("::", "::1"), ("::", "127.0.0.2")],
)
async def test_an_answer_comes_from_the_address_that_was_asked(listen: str, asked: str) -> None:
    port = free_port()
    async with listening(SocketAddress(listen, port)) as server:
        await eventually(lambda: server.listening, "it listens")
        # If the answer comes from another address, dig reports "reply from unexpected source"
        # and continues to wait.
        assert await dig(asked, port) == "10.77.0.2"
        assert await dig(asked, port, "+tcp") == "10.77.0.2"


async def test_a_port_in_use_is_a_problem_that_is_logged_once_and_mended_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responder, "LOOK", 0.02)
    attempts = Mock(side_effect=refusal)
    monkeypatch.setattr(responder, "refusal", attempts)
    at = SocketAddress("127.0.0.1", free_port())
    with capture_logs() as logged, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(at)
        async with listening(at) as server:
            await eventually(lambda: server.problem, "it says so")
            assert server.problem == f"can't listen on {at}: Address already in use"
            await eventually(lambda: attempts.call_count > 4, "it is tried again and again")
            taken.close()
            await eventually(lambda: server.listening, "it listens after all")
            await eventually(lambda: server.problem is None, "and says so no more")
    assert [line["event"] for line in logged] == ["dns.trouble", "dns.listening"]


async def test_an_address_that_this_machine_lacks_is_a_problem() -> None:
    async with listening(SocketAddress("192.0.2.77", free_port())) as server:
        await eventually(lambda: server.problem, "it says so")
        assert "this machine does not have that address" in str(server.problem)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("::ffff:8.8.8.8", False),
        ("::ffff:192.168.1.1", True),
        ("fe80::1%eth0", True),
        ("2001:4860::8", False),
    ],
)
def test_an_ipv4_source_is_judged_as_such_on_a_socket_for_both(host: str, private: bool) -> None:
    assert is_private(plain(host)) is private
