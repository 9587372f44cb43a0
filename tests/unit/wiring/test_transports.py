"""A node's own relay: a port in use does not end the node."""

import asyncio
import socket
from contextlib import suppress
from functools import partial
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs
from tests.integration.support import eventually

from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.wiring import transports
from dstack_vpn.wiring.transports import OwnRelay


async def test_a_port_in_use_is_a_problem_until_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "RETRY", 0.02)
    with capture_logs() as logged, socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Listen.parse(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        attempts = Mock(side_effect=partial(Tcp2Udp, Engine(), listen, ("127.0.0.1", 9)))
        relay = OwnRelay(listen, None, attempts)
        assert str(relay.problem) == f"can't listen on {listen.name}: Address already in use"
        running = asyncio.ensure_future(relay.run())  # noqa: TID251 - ended below
        await eventually(lambda: attempts.call_count > 4, "it was tried again and again")
        taken.close()
        await eventually(lambda: relay.service, "it listens after all")
        assert relay.problem is None
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert [line["event"] for line in logged] == ["relay.trouble", "relay.listening"]
