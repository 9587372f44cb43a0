"""Listening for HTTP, for as long as the process lives.

A status page is no reason to end a tunnel or a relay: while the port is taken, or the address is missing,
binding is tried again, the log reports it once, and `Listening.problem` keeps it until the binding works.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

from dstack_vpn.adapters.binding import bound, is_here, refusal
from dstack_vpn.adapters.turns import AT_ONCE, accepting
from dstack_vpn.core.model import SocketAddress

_log = structlog.get_logger(component="web")

RETRY: Final = 2.0
"""Seconds."""
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class Listening:
    """The sockets of HEALTH_CHECK_HOST and HEALTH_CHECK_PORT."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.problem: str | None = None
        """The reason why clients can't connect; None: they can."""

    async def serve(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Serve until cancelled. Absorbs every failure to bind."""
        servers = await self._listen(make)
        _log.info("web.listening", host=self.host, port=self.port)
        try:
            while True:
                self._look()
                await asyncio.sleep(RETRY)
        finally:
            for server in servers:
                server.close()

    async def _listen(self, make: Callable[[], asyncio.Protocol]) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                opened = self._open()
            except OSError as error:
                self._tell(f"can't listen on {self._where}: {refusal(error, self.port)}")
                await asyncio.sleep(RETRY)
            else:
                return [
                    await accepting(loop.create_server(make, sock=each, backlog=AT_ONCE), each)
                    for each in opened
                ]

    def _open(self) -> list[socket.socket]:
        if self.host != "localhost":
            return [bound(SocketAddress(self.host, self.port), socket.SOCK_STREAM)]
        opened = [bound(SocketAddress("127.0.0.1", self.port), socket.SOCK_STREAM)]
        try:
            opened.append(bound(SocketAddress("::1", self.port), socket.SOCK_STREAM))
        except OSError as error:
            if error.errno not in _ABSENT:
                opened[0].close()
                raise
        return opened

    def _look(self) -> None:
        """See whether the address is there: a tunnel's comes and goes with its interface."""
        if self.host == "localhost" or is_here(self.host):
            self.problem = None
        else:
            self._tell(f"can't listen on {self._where}: this machine does not have that address now")

    def _tell(self, problem: str) -> None:
        if self.problem != problem:
            self.problem = problem
            better = "another HEALTH_CHECK_HOST or HEALTH_CHECK_PORT; HEALTH_CHECK_PORT=0 for none"
            _log.error("web.trouble", problem=problem, better=better)

    @property
    def _where(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
