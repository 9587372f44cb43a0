"""The relays of a node: those that it reaches peers by, and its own, by which peers reach it.

All that they need is imported when there is one: most nodes have none.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

import structlog

from dstack_vpn.config import Settings
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.errors import RelayError
from dstack_vpn.ports import PeerRelay
from dstack_vpn.wiring.addresses import address_plan

if TYPE_CHECKING:
    from dstack_vpn.adapters.relay.engine import Engine
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

_log = structlog.get_logger(component="relay")

RETRY: Final = 2.0
"""Seconds between attempts to have the port that our own relay listens on."""


class Relays:
    """Makes them; they share an engine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    async def to_peer(self, peer_endpoint: PeerEndpoint) -> PeerRelay:
        """A relay to one peer; raises `RelayError`."""
        # The import takes 50 ms that no event should have to wait for.
        await asyncio.to_thread(import_module, "dstack_vpn.adapters.relay.peer")
        from dstack_vpn.adapters.relay.peer import LoopbackRelay

        mark, engine = self._settings.fwmark, self._shared_engine()
        allowed = Destinations(address_plan(self._settings).networks, local=peer_endpoint.local)
        return LoopbackRelay(engine, peer_endpoint.relays, mark=mark, destinations=allowed)

    async def of_our_own(self, listen: Listen) -> "OwnRelay":
        """Return what lets peers reach this node's WireGuard over TCP or TLS.

        Raises `RelayError` for a certificate that can't be used; a port that can't be had is tried again.
        """
        from dstack_vpn.adapters.relay.certs import Certificates
        from dstack_vpn.adapters.relay.limits import Limits
        from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

        settings, secure = self._settings, None
        if listen.tls:
            agent = settings.dstack_simulator_endpoint
            secure = await Certificates.load(listen, settings.state_dir, agent)
        make = partial(
            Tcp2Udp,
            self._shared_engine(),
            listen,
            ("127.0.0.1", settings.listen_port),
            limits=Limits(settings.relay_max_connections, settings.relay_max_per_source),
            secure=secure,
            mark=settings.fwmark,
            destinations=Destinations(address_plan(settings).networks, local=True),
        )
        return OwnRelay(listen, None if secure is None else secure.pin, make)

    def _shared_engine(self) -> "Engine":
        from dstack_vpn.adapters.relay.engine import Engine

        if self._engine is None:
            self._engine = Engine(offload=self._settings.relay_offload)
        return self._engine


class OwnRelay:
    """A node's own relay: one of several ways to the node, so its port is no reason to end."""

    def __init__(self, listen: Listen, pin: str | None, make: "Callable[[], Tcp2Udp]") -> None:
        """``make`` binds; it raises `RelayError`."""
        self._listen, self._pin, self._make = listen, pin, make
        self._unbound: str | None = None
        self.service: Tcp2Udp | None = None
        """Once it listens."""
        self._bind()

    @property
    def problem(self) -> str | None:
        """Why peers get nothing through; None: they may."""
        return self._unbound if self.service is None else self.service.problem

    async def run(self) -> None:
        """Serve until cancelled. Absorbs every failure to bind."""
        while self.service is None:
            await asyncio.sleep(RETRY)
            self._bind()
        await self.service.run()

    def _bind(self) -> None:
        try:
            self.service = self._make()
        except RelayError as error:
            if self._unbound != str(error):
                self._unbound = str(error)
                _log.error("relay.trouble", problem=self._unbound, better="another RELAY_LISTEN")
            return
        host, port = self.service.address
        _log.info("relay.listening", host=host, port=port, tls=self._listen.tls, pin=self._pin)
