"""Forward connections: forward.py LISTEN TO, each an address:port or the path of a Unix socket.

Two forwarders, one inside a node's network and one outside, give access to a page on the node's
loopback address. The node's HTTP server then needs to listen on no other address.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

CHUNK = 1 << 16


async def connect(to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if to.startswith("/"):
        return await asyncio.open_unix_connection(to)
    host, _, port = to.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of the stream, then end the other stream."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def main(listen: str, to: str) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there, back = await connect(to)
            with contextlib.closing(back):
                await asyncio.gather(copy(reader, back), copy(there, writer))

    if listen.startswith("/"):
        server = await asyncio.start_unix_server(carry, listen)
    else:
        host, _, port = listen.rpartition(":")
        server = await asyncio.start_server(carry, host, int(port))
    print(f"listening at {listen}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1].startswith("/"):
        Path(sys.argv[1]).unlink(missing_ok=True)  # from an earlier start; only we use this folder
    asyncio.run(main(*sys.argv[1:]))
