"""The peers as an onlooker sees them: read from the device when somebody looks, within bounds.

Reading holds the device up, so however many look, it is read once a second at most, and for a hundredth
of the time. What the peers have carried is added up from one reading to the next, since a peer's own counters
vanish with it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import DeviceState, PeerState
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel

READING: Final = TimeShare(parts=100, least=1.0)
"""How often the device is read."""
SLICE: Final = 500
"""Peers that are added up without a pause."""


@dataclass(slots=True)
class PeerStatsCache:
    """The device's peers as they were a moment ago."""

    tunnel: Tunnel
    peers: Mapping[PublicKey, PeerState] = field(default_factory=dict)
    received: int = 0
    """Bytes from all peers since the start, those that are gone included."""
    sent: int = 0
    """The same for bytes to them."""
    at: float | None = None
    """When they were read last, in Unix seconds."""
    _counted: Mapping[PublicKey, PeerState] = field(default_factory=dict)
    """The reading up to which it is all added up."""
    _due: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self) -> Mapping[PublicKey, PeerState]:
        """The peers, read anew where that is due."""
        async with self._lock:
            began = self.tunnel.clock.monotonic()
            if began >= self._due and (state := await self.tunnel.read()) is not None:
                self.saw(state)
                now = self.tunnel.clock.monotonic()
                self._due = now + READING.pause(now - began)
            await self._add_up()
        return self.peers

    def saw(self, state: DeviceState) -> None:
        """The device was read, for whatever reason."""
        self.peers, self.at = state.peers, self.tunnel.clock.now()

    async def _add_up(self) -> None:
        """Add what was carried since it was added up last; some peers at a time, so that no event waits."""
        before, now = self._counted, self.peers
        if before is now:
            return
        for number, (key, peer) in enumerate(now.items(), 1):
            last = before.get(key)
            rx, tx = (0, 0) if last is None else (last.rx_bytes, last.tx_bytes)
            # What is less than before has begun anew: another device, or a peer that was away.
            self.received += peer.rx_bytes - (rx if peer.rx_bytes >= rx else 0)
            self.sent += peer.tx_bytes - (tx if peer.tx_bytes >= tx else 0)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self._counted = now
