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
    # The daemon's objects have few cycles. Searching all of them takes 20 ms with thousands of
    # peers, and the newest 20,000 take 10 ms, so those are searched in smaller parts.
    gc.set_threshold(4_000, 250, 1000)
    # structlog loads rich if it is installed: 3 MB that the daemon does not need.
    sys.modules.setdefault("rich", cast("ModuleType", None))
    from dstack_vpn.wiring import daemon as wiring

    asyncio.run(wiring.run(settings))
