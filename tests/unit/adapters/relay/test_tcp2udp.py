"""tcp2udp without free file descriptors, and the connections that it counts."""

import asyncio
import errno
import socket
import time
from typing import Any

import pytest
from tests.unit.adapters.relay.conftest import Pair, running

from dstack_vpn.adapters.relay import tcp2udp
from dstack_vpn.adapters.relay.stream import Stream


class Exhausted:
    """A listener whose `accept` fails with EMFILE."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener, self.calls = listener, 0

    def accept(self) -> None:
        self.calls += 1
        raise OSError(errno.EMFILE, "Too many open files")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


async def test_without_descriptors_the_listener_is_left_alone_for_a_while(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp2udp, "TICK", 0.05)
    listener = pair.far._listener
    exhausted = Exhausted(listener)
    monkeypatch.setattr(pair.far, "_listener", exhausted)
    async with running(pair.near, pair.far):
        pair.source.send(b"wait for me")
        async with asyncio.timeout(5):
            while exhausted.calls < 3:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
        calls, began = exhausted.calls, time.monotonic()
        await asyncio.sleep(0.2)
        assert exhausted.calls - calls <= (time.monotonic() - began) / 0.05 + 1
        monkeypatch.setattr(pair.far, "_listener", listener)
        assert await pair.take(pair.sink, 1) == [b"wait for me"]


async def test_a_connection_counts_before_its_handshake_is_over(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, proceed = asyncio.Event(), asyncio.Event()
    stream = pair.far._stream

    async def slow(accepted: socket.socket) -> Stream:
        begun.set()
        await proceed.wait()
        return await stream(accepted)

    monkeypatch.setattr(pair.far, "_stream", slow)
    async with running(pair.near, pair.far):
        with socket.create_connection(pair.far.address):
            async with asyncio.timeout(5):
                await begun.wait()
            assert pair.far.snapshot()["connections"] == 1
            proceed.set()
        async with asyncio.timeout(5):
            while pair.far.snapshot()["connections"]:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
