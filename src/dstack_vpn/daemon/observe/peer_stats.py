"""A cache of the device's peers and their counters, read on request at a bounded rate.

Reading blocks the device. So it is read at most once a second and for a hundredth of the time,
whatever the number of requests. On a busy host a reading also waits for the processor, and the
device is not blocked meanwhile. Therefore the shortest of the last readings counts. The traffic of
peers is summed from one reading to the next, since a peer's own counters vanish with it.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import DeviceState, PeerState
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.slices import slices

READING: Final = TimeShare(parts=100, least=1.0)
"""The rate at which the device is read."""
READINGS: Final = 4
"""The number of readings whose shortest duration is the cost of one."""
SLICE: Final = 500
"""The number of peers that are summed without yielding to the event loop."""


@dataclass(slots=True)
class PeerStatsCache:
    """The device's peers at the last reading."""

    tunnel: Tunnel
    peers: Mapping[PublicKey, PeerState] = field(default_factory=dict)
    received: int = 0
    """Bytes from all peers since the start, removed peers included."""
    sent: int = 0
    """Bytes to all peers since the start, removed peers included."""
    at: float | None = None
    """The time of the last reading (Unix seconds)."""
    _counted: Mapping[PublicKey, PeerState] = field(default_factory=dict)
    """The last reading that the sums include."""
    _due: float = 0.0
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=READINGS))
    """The durations of the last readings in seconds."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self) -> Mapping[PublicKey, PeerState]:
        """Return the peers; read the device again if that is due."""
        async with self._lock:
            began = self.tunnel.clock.monotonic()
            if began >= self._due and (state := await self.tunnel.read()) is not None:
                self.observe(state)
                now = self.tunnel.clock.monotonic()
                self._took.append(now - began)
                self._due = now + READING.pause(min(self._took))
            await self._add_up()
        return self.peers

    def observe(self, state: DeviceState) -> None:
        """Record a reading of the device; any reader may call it."""
        self.peers, self.at = state.peers, self.tunnel.clock.now()

    async def _add_up(self) -> None:
        """Add the traffic since the last sum; yield to the event loop between slices."""
        before, now = self._counted, self.peers
        if before is now:
            return
        async for part in slices(list(now.items()), SLICE):
            for key, peer in part:
                last = before.get(key)
                rx, tx = (0, 0) if last is None else (last.rx_bytes, last.tx_bytes)
                # A smaller counter has started from 0: another device, or a peer that was set
                # again.
                self.received += peer.rx_bytes - (rx if peer.rx_bytes >= rx else 0)
                self.sent += peer.tx_bytes - (tx if peer.tx_bytes >= tx else 0)
        self._counted = now
