"""The relays of a node: those that it reaches peers by, and its own, by which peers reach it.

All that they need is imported when there is one: most nodes have none.
"""

import asyncio
from collections.abc import Awaitable, Callable
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


def relay_maker(settings: Settings) -> Callable[[Reach], Awaitable[PeerRelay]]:
    """Makes a relay for one peer; raises `RelayError`."""
    engine: Engine | None = None

    async def make(reach: Reach) -> PeerRelay:
        nonlocal engine
        # The import takes 50 ms that no event should have to wait for.
        await asyncio.to_thread(import_module, "dstack_vpn.adapters.relay.peer")
        from dstack_vpn.adapters.relay.engine import Engine
        from dstack_vpn.adapters.relay.peer import LoopbackRelay

        engine = engine or Engine(offload=settings.relay_offload)
        return LoopbackRelay(engine, reach.relays, mark=settings.fwmark, foreign=not reach.local)

    return make


async def own_relay(settings: Settings, listen: Listen) -> "Tcp2Udp":
    """What lets peers reach this node's WireGuard over TCP or TLS; raises `RelayError`."""
    from dstack_vpn.adapters.relay.certs import Certificates
    from dstack_vpn.adapters.relay.engine import Engine
    from dstack_vpn.adapters.relay.limits import Limits
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

    secure = None
    if listen.tls:
        agent = settings.dstack_simulator_endpoint
        secure = await Certificates.load(listen, settings.state_dir, agent)
    service = Tcp2Udp(
        Engine(offload=settings.relay_offload),
        listen,
        ("127.0.0.1", settings.listen_port),
        limits=Limits(settings.relay_max_connections, settings.relay_max_per_source),
        secure=secure,
        mark=settings.fwmark,
    )
    host, port = service.address
    _log.info(
        "relay.listening", host=host, port=port, tls=listen.tls, pin=None if secure is None else secure.pin
    )
    return service
