"""Lookups of relay names. A member's unresolvable names do not delay other members' names."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.unit.daemon.conftest import eventually

from dstack_vpn.adapters.relay import lookup
from dstack_vpn.adapters.relay.lookup import SHARE, Found, NameCache, Share
from dstack_vpn.errors import RelayError

FOUND: Found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 443))]


class SilentServer:
    """A name server that answers for honest.example and blocks for other names."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.asked: list[str] = []

    def find(self, host: str, port: int, kind: socket.SocketKind) -> Found:
        del port, kind
        self.asked.append(host)
        if host != "honest.example":
            self.over.wait(10)
        return FOUND


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentServer]:
    monkeypatch.setattr(lookup, "DEADLINE", 0.1)
    found = SilentServer()
    yield found
    found.over.set()


async def test_one_members_relay_names_take_its_share_and_no_more(server: SilentServer) -> None:
    names, hostile = NameCache(server.find), Share()
    dead = (names.find(f"dead-{number}.example", 443, share=hostile) for number in range(200))
    lost = asyncio.gather(*dead, return_exceptions=True)
    await eventually(lambda: len(server.asked) == SHARE)
    assert await names.find("honest.example", 443, share=Share()) == FOUND
    assert all(isinstance(each, RelayError) for each in await lost)
    assert len(server.asked) == SHARE + 1
    # Lookups whose callers have given up do not start later.
    server.over.set()
    await eventually(lambda: not hostile.running)
    assert len(server.asked) == SHARE + 1
