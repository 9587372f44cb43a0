"""The relays of a node: those to its peers, and its own, over which peers reach it.

Their modules are imported on use: most nodes have no relay.
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
"""Seconds between attempts to bind the port of the node's own relay."""


class Relays:
    """Creates relays, which share an engine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    async def to_peer(self, peer_endpoint: PeerEndpoint) -> PeerRelay:
        """Return a relay to one peer; raises `RelayError`."""
        # The import takes 50 ms. It runs in a thread, so that it delays no event.
        await asyncio.to_thread(import_module, "dstack_vpn.adapters.relay.peer")
        from dstack_vpn.adapters.relay.peer import LoopbackRelay

        mark, engine = self._settings.fwmark, self._shared_engine()
        allowed = Destinations(address_plan(self._settings).networks, local=peer_endpoint.local)
        return LoopbackRelay(engine, peer_endpoint.relays, mark=mark, destinations=allowed)

    async def of_our_own(self, listen: Listen) -> "OwnRelay":
        """Return the relay over which peers reach this node's WireGuard by TCP or TLS.

        Raises `RelayError` for an unusable certificate; an unavailable port is tried again.
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
            self._engine = Engine(offload=self._settings.relay_offload, mark=self._settings.fwmark)
        return self._engine


class OwnRelay:
    """A node's own relay: one of several paths, so an unavailable port does not end the node."""

    def __init__(self, listen: Listen, pin: str | None, make: "Callable[[], Tcp2Udp]") -> None:
        """Create the relay with ``make``, which binds the port and may raise `RelayError`."""
        self._listen, self._pin, self._make = listen, pin, make
        self._unbound: str | None = None
        self.service: Tcp2Udp | None = None
        """The relay; None until it listens."""
        self._bind()

    @property
    def problem(self) -> str | None:
        """The reason that the relay does not work; None if it works."""
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
                _log.error("relay.trouble", problem=self._unbound, better="set another RELAY_LISTEN")
            return
        host, port = self.service.address
        _log.info("relay.listening", host=host, port=port, tls=self._listen.tls, pin=self._pin)
