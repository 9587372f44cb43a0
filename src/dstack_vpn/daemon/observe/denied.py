"""Events for denied packets: who, and to which port.

The kernel records them in sets of limited size, whatever the number of packets. An entry is
published when it appears, so that a port scan costs a bounded number of events.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import PacketDenied, PacketsDenied
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import DeniedPackets, Firewall, PacketCount, PolicyCounts, Publish

INTERVAL: Final = 2.0
"""Seconds between readings of the kernel's record."""
ONE_BY_ONE: Final = 10
"""The number of new entries in one reading that are published one by one."""
PROTOCOLS: Final[Mapping[int, str]] = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}
NOTHING: Final = PolicyCounts({}, PacketCount(0, 0), ())


@dataclass(slots=True)
class DeniedWatch:
    """Reads what the packet filter counts, and publishes new entries of denied packets."""

    firewall: Firewall
    interface: str
    policies: Policies
    node_at: Callable[[str], str | None]
    """Returns the node id of a tunnel address."""
    publish: Publish
    interval: float = INTERVAL
    counts: PolicyCounts = field(default=NOTHING, init=False)
    """The last reading."""
    _known: frozenset[tuple[str, str, int, int]] = field(default=frozenset(), init=False)

    async def run(self) -> None:
        """Read until cancelled. Absorbs `FirewallError`: health shows it."""
        while True:
            await asyncio.sleep(self.interval)
            if self.policies.compiled is None:
                self.counts, self._known = NOTHING, frozenset()
                continue
            try:
                self.counts = await self.firewall.count(self.interface)
            except FirewallError:
                continue
            self._publish_new()

    def _publish_new(self) -> None:
        present = {_key(entry): entry for entry in self.counts.recent}
        new = [entry for key, entry in present.items() if key not in self._known]
        self._known = frozenset(present)
        if len(new) > ONE_BY_ONE:
            self.publish(PacketsDenied(len(new)))
            return
        for entry in new:
            self.publish(self._event(entry))

    def _event(self, entry: DeniedPackets) -> Event:
        protocol = PROTOCOLS.get(entry.protocol, str(entry.protocol))
        node = self.node_at(entry.source)
        return PacketDenied(entry.source, node, entry.destination, protocol, entry.port)


def _key(entry: DeniedPackets) -> tuple[str, str, int, int]:
    return entry.source, entry.destination, entry.protocol, entry.port
