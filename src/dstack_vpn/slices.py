"""Iteration over thousands of items without blocking the event loop.

A change of the registry takes several turns of the event loop. The loop is free for a while after
each slice, so that the change does not meet another slice at every turn.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeVar, cast

from dstack_vpn.core.limits.time_share import TimeShare

_Items = TypeVar("_Items", bound=Sequence[Any])

SHARE: Final = TimeShare(parts=2)


async def slices(items: _Items, size: int) -> AsyncIterator[_Items]:
    """Yield the items in parts of ``size``, and sleep twice as long as the caller took for each."""
    for start in range(0, len(items), size):
        began = time.monotonic()
        yield cast("_Items", items[start : start + size])
        if start + size < len(items):
            await asyncio.sleep(SHARE.pause(time.monotonic() - began))
