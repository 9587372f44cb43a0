"""The relays of a node: those that it reaches peers by, and its own, by which peers reach it.

All that they need is imported when there is one: most nodes have none.
"""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from dstack_vpn.config import Settings
from dstack_vpn.core.reach import Reach
from dstack_vpn.core.upstream import Listen
from dstack_vpn.ports import PeerRelay

if TYPE_CHECKING:
    from dstack_vpn.adapters.relay.engine import Engine
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

_log = structlog.get_logger(component="relay")


class Relays:
    """Makes them; they share an engine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    async def to_peer(self, reach: Reach) -> PeerRelay:
        """A relay to one peer; raises `RelayError`."""
        # The import takes 50 ms that no event should have to wait for.
        await asyncio.to_thread(import_module, "dstack_vpn.adapters.relay.peer")
        from dstack_vpn.adapters.relay.peer import LoopbackRelay

        mark = self._settings.fwmark
        return LoopbackRelay(self._shared_engine(), reach.relays, mark=mark, foreign=not reach.local)

    async def of_our_own(self, listen: Listen) -> "Tcp2Udp":
        """What lets peers reach this node's WireGuard over TCP or TLS; raises `RelayError`."""
        from dstack_vpn.adapters.relay.certs import Certificates
        from dstack_vpn.adapters.relay.limits import Limits
        from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

        settings, secure = self._settings, None
        if listen.tls:
            agent = settings.dstack_simulator_endpoint
            secure = await Certificates.load(listen, settings.state_dir, agent)
        service = Tcp2Udp(
            self._shared_engine(),
            listen,
            ("127.0.0.1", settings.listen_port),
            limits=Limits(settings.relay_max_connections, settings.relay_max_per_source),
            secure=secure,
            mark=settings.fwmark,
        )
        host, port = service.address
        pin = None if secure is None else secure.pin
        _log.info("relay.listening", host=host, port=port, tls=listen.tls, pin=pin)
        return service

    def _shared_engine(self) -> "Engine":
        from dstack_vpn.adapters.relay.engine import Engine

        if self._engine is None:
            self._engine = Engine(offload=self._settings.relay_offload)
        return self._engine
