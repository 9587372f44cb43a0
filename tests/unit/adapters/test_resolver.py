"""Blocking lookups. Each has a deadline, and the number of threads is limited."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.unit.daemon.conftest import eventually

from dstack_vpn.adapters import resolver
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.core.model import SocketAddress

FOUND = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.7", 1))]


@dataclass
class Blocking:
    """A name server that blocks until the test sets `silent`."""

    silent: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    now: int = 0
    most: int = 0

    def find(self, host: str, *_: object, **__: object) -> list[Any]:
        if host == "quick.example":
            return FOUND
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.silent.wait(10)
        with self.lock:
            self.now -= 1
        return FOUND


@pytest.fixture
def blocking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocking]:
    found = Blocking()
    monkeypatch.setattr(socket, "getaddrinfo", found.find)
    monkeypatch.setattr(resolver, "DEADLINE", 0.05)
    monkeypatch.setattr(resolver, "THREADS", 3)
    yield found
    found.silent.set()


async def test_lookups_that_nothing_waits_for_any_more_still_count_as_threads(blocking: Blocking) -> None:
    system = SystemResolver()
    for _ in range(3):
        found = await asyncio.gather(*(system.resolve(f"dead-{n}.example", 1) for n in range(4)))
        assert found == [None] * 4, "each within its deadline"
    assert blocking.most == 3
    blocking.silent.set()
    await eventually(lambda: blocking.now == 0)
    assert await system.resolve("quick.example", 1) == SocketAddress("192.0.2.7", 1)


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
