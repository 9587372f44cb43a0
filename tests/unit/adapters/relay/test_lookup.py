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
            self.over.wait(60)
        return FOUND


@pytest.fixture
def server() -> Iterator[SilentServer]:
    found = SilentServer()
    yield found
    found.over.set()


async def test_one_members_relay_names_take_its_share_and_no_more(server: SilentServer) -> None:
    names, hostile = NameCache(server.find), Share()
    dead = (names.find(f"dead-{number}.example", 443, share=hostile) for number in range(200))
    lost = asyncio.gather(*dead)
    await eventually(lambda: len(server.asked) == SHARE)
    assert await names.find("honest.example", 443, share=Share()) == FOUND
    assert len(server.asked) == SHARE + 1
    # Lookups whose callers have given up do not start later.
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    server.over.set()
    await eventually(lambda: not hostile.running)
    assert len(server.asked) == SHARE + 1
    assert not hostile.waiting


async def test_a_silent_name_server_is_an_error_at_the_deadline(
    server: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "DEADLINE", 0.05)
    names, share = NameCache(server.find), Share()
    with pytest.raises(RelayError, match=r"can't resolve dead\.example: no name server answered"):
        await names.find("dead.example", 443, share=share)
    assert not share.waiting


async def test_a_name_that_did_not_resolve_is_looked_up_again() -> None:
    answers: list[Found | OSError] = [socket.gaierror(-3, "Temporary failure"), OSError("refused"), FOUND]

    def find(host: str, port: int, kind: socket.SocketKind) -> Found:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    names, share = NameCache(find), Share()
    for problem in ("Temporary failure", "refused"):
        with pytest.raises(RelayError, match=f"can't resolve relay.example: {problem}"):
            await names.find("relay.example", 443, share=share)
    assert await names.find("relay.example", 443, share=share) == FOUND
    assert not share.waiting and not share.running
