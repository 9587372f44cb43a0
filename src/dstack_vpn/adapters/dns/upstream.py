"""Forwards queries outside our zone to the configured resolvers. `desk` limits concurrent queries.

The resolvers are used in the configured order. If one does not reply within `EARLY`, the next one
is queried in parallel, and the late one is used last for a while. A dead resolver therefore costs a
moment once, not for each lookup.

Replies are forwarded as received, except for their id. They are not parsed: the client does that,
and dnspython would keep much of the input in its caches.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

import dns.rcode

from dstack_vpn.adapters.dns.messages import Query, answers, refusal, renewed
from dstack_vpn.core.model import SocketAddress

TIMEOUT: Final = 2.0
"""Seconds for each resolver."""
EARLY: Final = 0.25
"""Seconds after which the next resolver is queried too."""
LATE: Final = 30.0
"""Seconds for which a resolver that was slower than another is used last."""


class Forwarder:
    """Forwards queries to the resolvers."""

    def __init__(self, resolvers: Callable[[], Sequence[SocketAddress]]) -> None:
        self._resolvers = resolvers
        self._late: dict[SocketAddress, float] = {}
        """The time until which a resolver is used last, on the event loop's clock."""

    async def ask(self, query: Query, *, over_udp: bool) -> bytes:
        """Return a resolver's reply as received, or SERVFAIL. Absorbs all failures of resolvers.

        A reply is accepted only from the queried address, with the id and the question that were
        sent. Each query is sent from another port (RFC 5452).
        """
        if (answer := await self._first(query, over_udp=over_udp)) is not None:
            return answer
        return refusal(query, dns.rcode.SERVFAIL, recursive=True)

    async def _first(self, query: Query, *, over_udp: bool) -> bytes | None:
        """Return the first reply, or None if all resolvers failed."""
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
        return sorted(self._resolvers(), key=lambda resolver: self._late.get(resolver, 0.0) > now)

    def _put_last(self, late: Sequence[SocketAddress]) -> None:
        until = asyncio.get_running_loop().time() + LATE
        self._late.update(dict.fromkeys(late, until))

    async def _one(self, query: Query, resolver: SocketAddress, *, over_udp: bool) -> bytes | None:
        sent = renewed(query).to_wire()
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await (_by_udp if over_udp else _by_tcp)(resolver, sent)
        except (OSError, EOFError):  # including a timeout and a broken stream
            return None
        return None if answer is None else query.id.to_bytes(2, "big") + answer[2:]


async def _by_udp(resolver: SocketAddress, sent: bytes) -> bytes:
    """Query from a port of the kernel's choice, and wait for the reply of that resolver."""
    family = socket.AF_INET6 if ":" in resolver.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect(resolver)
        asking.send(sent)
        while True:
            data = await asyncio.get_running_loop().sock_recv(asking, 65535)
            if answers(sent, data):
                return data
            # sock_recv does not yield to the event loop if data is available, as in a flood.
            await asyncio.sleep(0)


async def _by_tcp(resolver: SocketAddress, sent: bytes) -> bytes | None:
    reader, writer = await asyncio.open_connection(*resolver)
    try:
        writer.write(len(sent).to_bytes(2, "big") + sent)
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
    return data if answers(sent, data) else None
