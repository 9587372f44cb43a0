"""One log line for each peer that was changed, or one for many at once."""

from collections.abc import Mapping
from typing import Final

import structlog

from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import RemovePeer, TokenId
from dstack_vpn.core.plan import Plan
from dstack_vpn.core.registry import Registry

_log = structlog.get_logger(component="device")

ONE_BY_ONE: Final = 50
"""Changes at once; more of them become one line."""


def report(
    steps: Plan,
    tokens: Mapping[PublicKey, TokenId | None],
    registry: Registry,
    block: int | None,
    latency: float | None,
) -> None:
    """Say what the device has acknowledged.

    ``tokens`` tells whose peers these are (or were); ``latency`` is in seconds, and None where no event was
    behind the change, but a repair.
    """
    common = {"block": block, "latency_ms": None if latency is None else round(latency * 1000, 3)}
    if len(steps.steps) > ONE_BY_ONE:
        _log.info("peers.changed", set=len(steps.others), removed=len(steps.removals), **common)
        return
    for step in steps.steps:
        key = step.change.public_key
        token = tokens[key]
        node = None if token is None else registry.get(token)
        _log.info(
            "peer.removed" if isinstance(step.change, RemovePeer) else "peer.set",
            peer=str(key),
            token=token,
            node=None if node is None else str(node.node_id),
            reason=step.reason,
            **common,
        )
