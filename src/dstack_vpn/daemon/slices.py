"""Iteration over thousands of items without blocking the event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


async def slices(items: Sequence[_T], size: int) -> AsyncIterator[Sequence[_T]]:
    """Yield the items in parts of ``size``; yields to the event loop after each part."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
        await asyncio.sleep(0)
