"""The connections to RPC endpoints, which may leave beside an exit (`adapters.uplink`)."""

import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from dstack_vpn.adapters.resolver import aside
from dstack_vpn.adapters.uplink import LookUp, look_up_by, mark_socket


def connector(mark: int | None, **options: Any) -> aiohttp.TCPConnector:  # noqa: ANN401 - aiohttp's
    """Return a connector whose connections have the mark; None: as the system routes them."""
    if mark is None:
        return aiohttp.TCPConnector(**options)
    resolver = _MarkedResolver(look_up_by(mark))
    return aiohttp.TCPConnector(resolver=resolver, socket_factory=partial(_marked, mark), **options)


def _marked(mark: int, info: Sequence[Any]) -> socket.socket:
    made = socket.socket(info[0], info[1], info[2])
    try:
        mark_socket(made, mark)
    except BaseException:
        made.close()
        raise
    return made


class _MarkedResolver(AbstractResolver):
    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host; raises `OSError`."""
        found = await aside(lambda: self._look_up(host, port, socket.SOCK_STREAM))
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=each,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for each, _, protocol, _, address in found
            if family in {socket.AF_UNSPEC, each}
        ]

    async def close(self) -> None:
        """Release nothing."""
