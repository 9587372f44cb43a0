"""Forwards what is not ours to the operator's resolvers, in their order, a bounded number at once."""

import asyncio
from collections.abc import Sequence
from typing import Final

import dns.asyncquery
import dns.exception
import dns.rcode

from dstack_vpn.adapters.dns.messages import Query, refusal, renewed
from dstack_vpn.core.model import SocketAddress

TIMEOUT: Final = 2.0
"""Seconds for each resolver."""
AT_ONCE: Final = 64


class Upstream:
    """The resolvers."""

    def __init__(self, resolvers: Sequence[SocketAddress]) -> None:
        self._resolvers = tuple(resolvers)
        self._room = AT_ONCE

    async def ask(self, query: Query, *, over_udp: bool) -> bytes:
        """Their answer as it came, or SERVFAIL. Absorbs every failure of theirs.

        dnspython takes an answer only from where it asked, with the id and the question that it sent, from a
        port of its own for each (RFC 5452).
        """
        if self._room:
            self._room -= 1
            try:
                for resolver in self._resolvers:
                    if (answer := await self._one(query, resolver, over_udp=over_udp)) is not None:
                        return answer
            finally:
                self._room += 1
        return refusal(query, dns.rcode.SERVFAIL, recursive=True)

    async def _one(self, query: Query, resolver: SocketAddress, *, over_udp: bool) -> bytes | None:
        sent = renewed(query)
        ask = dns.asyncquery.udp if over_udp else dns.asyncquery.tcp
        try:
            answer = await ask(sent, resolver.host, TIMEOUT, resolver.port)
            answer.id = query.id
            return answer.to_wire()  # which a hostile one may be too long for
        except (dns.exception.DNSException, OSError, ValueError, EOFError, asyncio.IncompleteReadError):
            return None
