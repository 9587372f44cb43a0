"""A name server that hangs, at the end."""

import asyncio
import socket
import threading
import time
from contextlib import suppress

import pytest

from dstack_vpn.adapters.resolver import SystemResolver


def test_a_name_server_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(10) and [])

    async def begin_and_end() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await SystemResolver().resolve("slow.example", 1)

    began = time.monotonic()
    asyncio.run(begin_and_end())
    answer.set()
    assert time.monotonic() - began < 5.0
