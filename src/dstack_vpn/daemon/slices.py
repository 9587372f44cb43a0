"""Going through thousands of things without keeping an event waiting."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


async def slices(items: Sequence[_T], size: int) -> AsyncIterator[Sequence[_T]]:
    """The items, ``size`` at a time; after each part, what else is ready gets its turn."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
        await asyncio.sleep(0)
