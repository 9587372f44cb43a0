"""The relay for one peer of a node: udp2tcp on a loopback port, with WireGuard as its source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import structlog

from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.limits import Limits
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import RelayError

_log = structlog.get_logger(component="relay")

LOOPBACK: Final = SocketAddress("127.0.0.1", 0)
_SOURCES: Final = Limits(4, 4)
"""WireGuard is one source; after a new setup there is temporarily a second one."""


class LoopbackRelay:
    """Implements `ports.PeerRelay`."""

    def __init__(
        self, engine: Engine, upstreams: Sequence[RelayUrl], *, mark: int | None, destinations: Destinations
    ) -> None:
        """Bind; raises `RelayError`."""
        self._mark = mark
        self._service = Udp2Tcp(
            engine, LOOPBACK, upstreams, limits=_SOURCES, mark=mark, destinations=destinations
        )

    @property
    def address(self) -> SocketAddress:
        """The address that WireGuard sends to."""
        return self._service.address

    async def run(self) -> None:
        """Carry datagrams until cancelled."""
        await self._service.run()

    def close(self) -> None:
        """Release the port; only for a relay that never ran."""
        self._service.close()

    def retarget(self, upstreams: Sequence[RelayUrl]) -> None:
        """Use other relays."""
        self._service.retarget(upstreams)

    @property
    def problem(self) -> str | None:
        """The reason that no datagram passes; None if datagrams may pass."""
        return self._service.problem

    def probe(self, to: SocketAddress, answered: Callable[[], None]) -> None:
        """Probe whether the peer also answers by UDP."""
        flows = sorted(self._service.flows, key=lambda flow: flow.active_at)
        for flow in flows[-1:]:
            try:
                flow.probe(to, self._mark, answered)
            except (OSError, RelayError) as error:
                _log.debug("relay.probe_failed", address=str(to), problem=str(error))

    def hold(self, *, on: bool) -> None:
        """Hold the packets for WireGuard, or release them."""
        for flow in self._service.flows:
            flow.hold(on=on)

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state for operators."""
        return {**self._service.snapshot(), **asdict(self._service.counters)}
