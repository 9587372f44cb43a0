"""Reads of HTTP bodies whose size another program chooses."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp


class BodyTooLongError(ValueError):
    """The body exceeds the limit."""


async def read_bounded(stream: "aiohttp.StreamReader", limit: int) -> bytes:
    """Return a decompressed body. Raises `BodyTooLongError` if it exceeds ``limit`` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream.iter_any():
        size += len(chunk)
        if size > limit:
            raise BodyTooLongError(f"the body exceeds {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
