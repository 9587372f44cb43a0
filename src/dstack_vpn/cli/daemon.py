"""`run`: the daemon."""

import asyncio
import gc
import sys
from types import ModuleType
from typing import cast

import click

from dstack_vpn.cli.options import with_settings
from dstack_vpn.config import Settings


@click.command(
    epilog="""\b
Example:
  NODE_ID=web-1 NETWORK=base WIREGUARD_PRIVATE_KEY_FILE=/etc/dstack-vpn/wireguard.key dstack-vpn run"""
)
@with_settings(need=["WIREGUARD_PRIVATE_KEY"], serves=True)
def run(settings: Settings) -> None:
    """Be a member of the network: follow the registry and keep WireGuard's peers equal to it.

    SIGTERM and SIGINT end it in order; a second one at once.
    """
    # The daemon's objects have few cycles. Looking for them takes 15 ms of the imports, and up to 20 ms a
    # time with thousands of peers.
    gc.set_threshold(20_000, 50, 1000)
    # structlog loads rich where it finds it: 3 MB that a daemon has no use for.
    sys.modules.setdefault("rich", cast("ModuleType", None))
    from dstack_vpn.wiring import daemon as wiring

    asyncio.run(wiring.run(settings))
