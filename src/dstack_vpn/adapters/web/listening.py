"""The listening HTTP sockets.

A failure to bind does not end the tunnel or the relay. While the port is in use or the address is
missing, binding is tried again; the log reports the problem once, and `Listening.problem` keeps it
until binding succeeds.
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
"""Seconds between attempts to bind, and between checks of the address."""
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class Listening:
    """The sockets of HEALTH_CHECK_HOST and HEALTH_CHECK_PORT."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.problem: str | None = None
        """The reason that clients can't connect; None if they can."""

    async def serve(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Serve until cancelled. Absorbs every failure to bind."""
        servers = await self._listen(make)
        _log.info("web.listening", host=self.host, port=self.port)
        try:
            while True:
                self._check_address()
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
                self._report(f"can't listen on {self._name}: {refusal(error, self.port)}")
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

    def _check_address(self) -> None:
        """Report a missing address: that of a tunnel exists only while its interface does."""
        if self.host == "localhost" or is_here(self.host):
            self.problem = None
        else:
            self._report(f"can't listen on {self._name}: this machine does not have that address now")

    def _report(self, problem: str) -> None:
        if self.problem != problem:
            self.problem = problem
            better = "set another HEALTH_CHECK_HOST or HEALTH_CHECK_PORT; HEALTH_CHECK_PORT=0 disables it"
            _log.error("web.trouble", problem=problem, better=better)

    @property
    def _name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
