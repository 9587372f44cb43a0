"""tcp2udp in a process without free file descriptors."""

import asyncio
import errno
import socket
import time
from typing import Any

import pytest
from tests.unit.adapters.relay.conftest import Pair, running

from dstack_vpn.adapters.relay import tcp2udp


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
