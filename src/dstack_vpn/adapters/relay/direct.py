"""A probe of the direct path: does the peer answer by UDP while a relay carries the traffic?

Copies of a few datagrams also go to the peer's UDP address. WireGuard accepts the copy that arrives
first, drops the other as a replay, and answers to the source of the first. An answer here therefore
proves that UDP works in both directions. Answers are passed on to WireGuard, so none is lost.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.sockets import set_mark
from dstack_vpn.adapters.relay.uplink import Uplink
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.wireguard.framing import HEADER
from dstack_vpn.errors import RelayError

COPIES: Final = 32
"""The number of copies. The peer answers a copy only if it has something to send at that time..."""
APART: Final = 0.02
"""...so the copies are this many seconds apart."""
PATIENCE: Final = 5.0
"""Seconds to wait for traffic and an answer."""
_TYPES: Final = frozenset({1, 2, 3, 4})
"""The first bytes of WireGuard's messages (whitepaper, section 5.4)."""
_LONGEST: Final = 65535
_DRAINED: Final = 64
"""Datagrams that are passed on before other connections have their turn."""


class DirectProbe:
    """One probe. It ends after `PATIENCE` without an answer; after one, `close` ends it."""

    def __init__(
        self, engine: Engine, uplink: Uplink, wireguard: socket.socket, answered: Callable[[], None]
    ) -> None:
        self._engine, self._uplink, self._wireguard, self._answered = engine, uplink, wireguard, answered
        self._udp: socket.socket | None = None
        self._left, self._next = COPIES, 0.0
        self._received = False

    def start(self, to: SocketAddress, mark: int | None) -> None:
        """Start; raises `OSError` without a route, `RelayError` if the mark is not permitted."""
        family = socket.AF_INET6 if ":" in to.host else socket.AF_INET
        udp = self._udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # While answers are held, the peer may send at full speed: the default buffer lasts 20 ms.
        self._engine.widen(udp)
        try:
            if mark is not None:
                set_mark(udp, mark)
            udp.connect(to)
        except (OSError, RelayError):
            udp.close()
            self._udp = None
            raise
        self._engine.loop.add_reader(udp.fileno(), self._on_answer)
        self._engine.loop.call_later(PATIENCE, self._give_up)
        self._uplink.mirror(self._copy)

    def close(self) -> None:
        """Stop listening for answers."""
        if self._udp is not None:
            self._uplink.mirror(None)
            self._engine.loop.remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None

    def hold(self, *, on: bool) -> None:
        """Pause or resume reading of answers."""
        if self._udp is None:
            return
        if on:
            self._engine.loop.remove_reader(self._udp.fileno())
        else:
            self._engine.loop.add_reader(self._udp.fileno(), self._on_answer)

    def _give_up(self) -> None:
        if not self._received:
            self.close()

    def _copy(self, frames: bytes) -> None:
        """Send a copy of the first frame."""
        now = self._engine.loop.time()
        if self._udp is None or now < self._next:
            return
        self._left, self._next = self._left - 1, now + APART
        with suppress(OSError):
            self._udp.send(frames[HEADER : HEADER + int.from_bytes(frames[:HEADER], "big")])
        if not self._left:
            self._uplink.mirror(None)

    def _on_answer(self) -> None:
        """Pass on the waiting datagrams, many at a time: hundreds may wait after a hold."""
        for _ in range(_DRAINED):
            if self._udp is None:
                return
            try:
                datagram = self._udp.recv(_LONGEST)
            except OSError:
                return  # the queue is empty, or an ICMP error arrived: the peer is unreachable
            self._take(datagram)

    def _take(self, datagram: bytes) -> None:
        if not datagram or datagram[0] not in _TYPES:
            return
        with suppress(OSError):
            self._wireguard.send(datagram)
        if not self._received:
            self._received = True
            self._answered()
