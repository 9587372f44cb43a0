"""`/attestation`: a quote over this node's public key, for `dstack-vpn attest verify`.

A quote takes much processor time. It is therefore requested once and kept until the key changes.
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
        """``key`` returns this node's public key; ``attest`` may raise `AgentError`.

        Without a guest agent, pass None for ``attest``.
        """
        self._key, self._attest = key, attest
        self._attested: tuple[PublicKey, dict[str, Any]] | None = None
        self._lock = asyncio.Lock()

    def routes(self) -> Iterable[Route]:
        """See `server.Part.routes`."""
        return (Route("/attestation", self._get),)

    async def close(self) -> None:
        """See `server.Part.close`."""

    async def _get(self, _: web.Request) -> web.Response:
        if self._attest is None:
            return problem(404, "no attestation: this node's key does not come from the dstack guest agent")
        key = self._key()
        async with self._lock:
            if self._attested is None or self._attested[0] != key:
                try:
                    self._attested = key, await self._attest(key)
                except AgentError as error:
                    return problem(503, str(error))
            return answer(self._attested[1])
