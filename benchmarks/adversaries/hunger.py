"""A member that exhausts a node's resources: ``python hunger.py hold|flood|drop``.

``hold`` opens as many connections as it can, and reopens those that are reset. ``flood`` queries
the DNS server as fast as it can send datagrams. ``drop`` sends as many to a port that no program
reads. Each runs in the attacker's namespace until standard input ends, then prints a line of JSON.
"""

import asyncio
import json
import resource
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import dns.message

API, DNS, RELAY, UNREAD = 8080, 53, 8443, 9
QUESTION = dns.message.make_query("a.vpn.internal", "A").to_wire()
OVER_TCP = len(QUESTION).to_bytes(2, "big") + QUESTION
STREAM = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Want(NamedTuple):
    """The connections to one service from one address."""

    name: str
    port: int
    request: bytes
    number: int


MEMBERS = (Want("api", API, b"", 60), Want("events", API, STREAM, 40), Want("dns", DNS, OVER_TCP, 24))
STRANGERS = (Want("api", API, b"", 60), Want("relay", RELAY, b"\x00\x20", 100))


async def hold(pairs: Iterable[tuple[str, str]], strangers: Iterable[tuple[str, str]]) -> None:
    """Hold connections between pairs of an own address and an address of the node."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    opened = Counter[str]()
    wanted = [(*pair, want) for pair in pairs for want in MEMBERS]
    wanted += [(*pair, want) for pair in strangers for want in STRANGERS]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_reconnect(own, to, want, opened))
            for own, to, want in wanted
            for _ in range(want.number)
        ]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
    print(json.dumps({"attempts": sum(opened.values()), "opened": dict(opened)}))


async def _reconnect(own: str, to: str, want: Want, opened: Counter[str]) -> None:
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(to, want.port, local_addr=(own, 0))
            opened[want.name] += 1
            try:
                writer.write(want.request)
                while await reader.read(65536):
                    pass
            finally:
                writer.transport.abort()
        await asyncio.sleep(0)


def flood(pairs: Iterable[tuple[str, str]], port: int) -> None:
    """Send datagrams from each address in turn, without a pause."""
    sockets = []
    for own, to in pairs:
        made = socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((own, 0))
        made.connect((to, port))
        sockets.append(made)
    sent = 0
    reading = threading.Thread(target=sys.stdin.read, daemon=True)
    reading.start()
    while reading.is_alive():
        for made in sockets:
            with suppress(OSError):
                made.send(QUESTION)
                sent += 1
    print(json.dumps({"attempts": sent}))


if __name__ == "__main__":
    kind, inside, outside = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    if kind == "hold":
        asyncio.run(hold(inside, outside))
    else:
        flood(inside, DNS if kind == "flood" else UNREAD)
