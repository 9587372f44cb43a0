"""Addresses and ports that the HTTP server listens on."""

import asyncio
import socket
from unittest.mock import Mock

import aiohttp
import pytest
from structlog.testing import capture_logs
from tests.ports import free_port
from tests.unit.adapters.web.serving import WELL, until

from dstack_vpn.adapters.binding import bound
from dstack_vpn.adapters.web import listening
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.server import HttpServer


async def test_a_port_in_use_is_a_problem_that_is_logged_once_and_mended_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "RETRY", 0.02)
    attempts = Mock(side_effect=bound)
    monkeypatch.setattr(listening, "bound", attempts)
    with capture_logs() as logged, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = HttpServer("127.0.0.1", port, Policy(), lambda: WELL)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            await until(lambda: server.problem)
            assert server.problem == f"can't listen on 127.0.0.1:{port}: Address already in use"
            await until(lambda: attempts.call_count > 4)
            taken.close()
            await until(lambda: server.problem is None)
            assert await asked("127.0.0.1", port)
            running.cancel()
    assert [line["event"] for line in logged] == ["web.trouble", "web.listening"]


@pytest.mark.parametrize(
    ("host", "asks"),
    [("::", "127.0.0.1"), ("::", "::1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.2")],
)
async def test_every_address_answers_over_ipv4_and_ipv6(host: str, asks: str) -> None:
    port = free_port()
    server = HttpServer(host, port, Policy(), lambda: WELL)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        async with asyncio.timeout(10):
            while not await asked(asks, port):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        running.cancel()


async def test_an_address_that_comes_later_is_no_reason_to_end() -> None:
    server = HttpServer("192.0.2.77", free_port(), Policy(), lambda: WELL)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        await until(lambda: server.problem)
        assert "does not have that address now" in str(server.problem)
        running.cancel()


async def asked(host: str, port: int) -> bool:
    """Return True if the server's /live answers with 200."""
    name = f"[{host}]" if ":" in host else host
    try:
        async with aiohttp.ClientSession() as client, client.get(f"http://{name}:{port}/live") as reply:
            return reply.status == 200
    except aiohttp.ClientConnectionError:
        return False
