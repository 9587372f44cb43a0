"""`/attestation`: a quote over this node's public key, for `dstack-vpn attest verify`.

It is asked for once and then kept, because the key stays the same and a quote takes a processor a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from dstack_vpn.adapters.web.server import Route, answer, problem
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import AgentError


class Attestation:
    """Implements `server.Part`."""

    open_paths = frozenset[str]()
    slow_paths = frozenset[str]()

    def __init__(
        self,
        key: Callable[[], PublicKey],
        attest: Callable[[PublicKey], Awaitable[dict[str, Any]]] | None,
    ) -> None:
        """``key`` is our public key now; ``attest`` raises `AgentError`, and is None without an agent."""
        self._key, self._attest = key, attest
        self._made: tuple[PublicKey, dict[str, Any]] | None = None
        self._lock = asyncio.Lock()

    def routes(self) -> Iterable[Route]:
        """See `server.Part.routes`."""
        return (Route("/attestation", self._get),)

    async def close(self) -> None:
        """See `server.Part.close`."""

    async def _get(self, _: web.Request) -> web.Response:
        if self._attest is None:
            return problem(404, "this node's key is not the dstack guest agent's: it has no attestation")
        key = self._key()
        async with self._lock:
            if self._made is None or self._made[0] != key:
                try:
                    self._made = key, await self._attest(key)
                except AgentError as error:
                    return problem(503, str(error))
            return answer(self._made[1])
