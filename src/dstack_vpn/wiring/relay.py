"""A stand-alone relay: from its settings to a service that runs until a signal ends it."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from dstack_vpn import __version__
from dstack_vpn.adapters import logs
from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.relay.certs import Certificates
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.limits import Limits
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.adapters.relay.view import RelayView, Service
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.server import HttpServer, of_view
from dstack_vpn.config import RelaySettings
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.relay_url import DSTACK, Listen
from dstack_vpn.errors import ConfigError
from dstack_vpn.wiring.secrets import refuse_exposed

_log = structlog.get_logger(component="relay")

RESERVE: Final = 64
"""The number of descriptors in addition to two for each connection."""

Show = Callable[[RelayView], Coroutine[Any, Any, None]]
"""Displays a relay on the terminal until cancelled."""


async def run(settings: RelaySettings, reread: Callable[[], RelaySettings], show: Show | None) -> None:
    """Serve until SIGTERM or SIGINT; read the settings again on SIGHUP. Raises `RelayError`."""
    logs.configure(settings.log_level, settings.log_levels, settings.log_format)
    logs.warn_exposed(settings.exposed)
    logs.warn_unknown(settings.unknown)
    service = await build(settings)
    view = RelayView(service, __version__, SystemClock().now())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(1) if stop.is_set() else stop.set())
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(service, reread))
    gc.collect()
    gc.freeze()
    tasks = [service.run()]
    if settings.health_check_port:
        address = settings.health_check_host, settings.health_check_port
        token = None if settings.api_token is None else settings.api_token.reveal()
        open_to = settings.api_open_to
        policy = Policy(token, loopback="loopback" in open_to, users="users" in open_to)
        tasks.append(HttpServer(*address, policy, view.health, [of_view(view)]).run())
    if show is not None:
        tasks.append(show(view))
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_forever(task)) for task in tasks]
        await stop.wait()
        _log.info("relay.stopping")
        for task in running:
            task.cancel()


async def build(settings: RelaySettings) -> Service:
    """Return the service, listening.

    Raises `RelayError`, and `ConfigError` if other users can write to its secrets.
    """
    engine = Engine(offload=settings.offload)
    if engine.descriptors < (needed := 2 * settings.max_connections + RESERVE):
        _log.warning(
            "relay.few_descriptors", allowed=engine.descriptors, needed=needed, better="raise ulimit -n"
        )
    limits = Limits(settings.max_connections, settings.max_per_source, settings.idle_timeout)
    service: Service
    pin = None
    if isinstance(settings.listen, Listen):
        assert settings.target is not None
        secure = None
        if settings.listen.tls:
            if settings.listen.cert in {None, DSTACK}:
                refuse_exposed({"STATE_DIR": settings.state_dir})
            secure = await Certificates.load(settings.listen, settings.state_dir, settings.guest_agent)
            pin = secure.pin
        service = Tcp2Udp(
            engine, settings.listen, settings.target, limits=limits, secure=secure, mark=settings.fwmark
        )
        to = [str(SocketAddress(*settings.target))]
    else:
        service = Udp2Tcp(engine, settings.listen, settings.upstreams, limits=limits, mark=settings.fwmark)
        to = [upstream.name for upstream in settings.upstreams]
    host, port = service.address
    _log.info("relay.listening", mode=settings.mode, host=host, port=port, to=to, pin=pin)
    return service


def _reload(service: Service, reread: Callable[[], RelaySettings]) -> None:
    """Apply new upstreams, which can change at run time; invalid settings change nothing."""
    try:
        settings = reread()
    except ConfigError as error:
        _log.error("relay.reload_failed", problems=error.problems)
        return
    if isinstance(service, Udp2Tcp):
        service.retarget(settings.upstreams)
    _log.info("relay.reloaded", to=[upstream.name for upstream in settings.upstreams])


async def _forever(task: Awaitable[None]) -> None:
    await task
    raise RuntimeError("a task of the relay has ended unexpectedly")
