"""Forwards what is not ours to the operator's resolvers. `desk` bounds how many questions there are at once.

They are asked in the operator's order. One that does not answer soon has the next one asked besides, and
comes last for a while: so a dead resolver costs a moment once, not each lookup.

Their answers are passed on as they came, with another id. They are not read: that is the client's business,
and what reads them keeps much of what strangers put in.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

import dns.rcode

from dstack_vpn.adapters.dns.messages import Query, answers, refusal, renewed
from dstack_vpn.core.model import SocketAddress

TIMEOUT: Final = 2.0
"""Seconds for each resolver."""
EARLY: Final = 0.25
"""Seconds after which the next resolver is asked, too."""
LATE: Final = 30.0
"""Seconds for which a resolver that another one was faster than is asked last."""


class Forwarder:
    """The resolvers."""

    def __init__(self, resolvers: Sequence[SocketAddress]) -> None:
        self._resolvers = tuple(resolvers)
        self._late: dict[SocketAddress, float] = {}
        """Until when a resolver is asked last, on the event loop's clock."""

    async def ask(self, query: Query, *, over_udp: bool) -> bytes:
        """Their answer as it came, or SERVFAIL. Absorbs every failure of theirs.

        An answer is taken only from where it was asked for, with the id and the question that were sent, from
        a port of its own for each (RFC 5452).
        """
        if (answer := await self._first(query, over_udp=over_udp)) is not None:
            return answer
        return refusal(query, dns.rcode.SERVFAIL, recursive=True)

    async def _first(self, query: Query, *, over_udp: bool) -> bytes | None:
        """Return the first answer; None: no resolver has one."""
        waiting: dict[asyncio.Task[bytes | None], SocketAddress] = {}
        rest = self._order()
        async with asyncio.TaskGroup() as group:
            while rest or waiting:
                if rest:
                    resolver = rest.pop(0)
                    asked = group.create_task(self._one(query, resolver, over_udp=over_udp))
                    waiting[asked] = resolver
                done, _ = await asyncio.wait(
                    waiting, timeout=EARLY if rest else None, return_when=asyncio.FIRST_COMPLETED
                )
                answered = next((task for task in done if task.result() is not None), None)
                late = [resolver for task, resolver in waiting.items() if task is not answered]
                for task in done:
                    del waiting[task]
                if answered is not None:
                    self._put_last(late)
                    for task in waiting:
                        task.cancel()
                    return answered.result()
        return None

    def _order(self) -> list[SocketAddress]:
        now = asyncio.get_running_loop().time()
        return sorted(self._resolvers, key=lambda resolver: self._late.get(resolver, 0.0) > now)

    def _put_last(self, late: Sequence[SocketAddress]) -> None:
        until = asyncio.get_running_loop().time() + LATE
        self._late.update(dict.fromkeys(late, until))

    async def _one(self, query: Query, resolver: SocketAddress, *, over_udp: bool) -> bytes | None:
        sent = renewed(query).to_wire()
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await (_by_udp if over_udp else _by_tcp)(resolver, sent)
        except (OSError, EOFError):  # a timeout and a broken stream among them
            return None
        return None if answer is None else query.id.to_bytes(2, "big") + answer[2:]


async def _by_udp(resolver: SocketAddress, sent: bytes) -> bytes:
    """Ask from a port of the kernel's choice, and wait until that very resolver answers."""
    family = socket.AF_INET6 if ":" in resolver.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect(resolver)
        asking.send(sent)
        while True:
            data = await asyncio.get_running_loop().sock_recv(asking, 65535)
            if answers(sent, data):
                return data
            # sock_recv doesn't wait where something is there already: a flood must not hold up all others.
            await asyncio.sleep(0)


async def _by_tcp(resolver: SocketAddress, sent: bytes) -> bytes | None:
    reader, writer = await asyncio.open_connection(*resolver)
    try:
        writer.write(len(sent).to_bytes(2, "big") + sent)
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
    return data if answers(sent, data) else None
