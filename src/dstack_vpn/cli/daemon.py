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
    """Run the daemon: follow the registry, and keep WireGuard's peers equal to it.

    SIGTERM or SIGINT ends it in order, and a second signal immediately.
    """
    # The daemon's objects have few cycles. Searching for them takes 15 ms during the imports, and
    # up to 20 ms per collection with thousands of peers. A collection of 20,000 new objects takes
    # up to 10 ms, and one of 5,000 a quarter of that.
    gc.set_threshold(5_000, 200, 1000)
    # structlog loads rich if it is installed: 3 MB that the daemon does not need.
    sys.modules.setdefault("rich", cast("ModuleType", None))
    from dstack_vpn.wiring import daemon as wiring

    asyncio.run(wiring.run(settings))
