"""Ports for servers that need their port before they listen, or that listen again."""

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_FIRST: Final = 15_000
_WORKERS: Final = 16
_EACH: Final = 1000
"""Ports of one process. All are below those that the system gives to outgoing connections."""


def _candidates() -> Iterator[int]:
    """Yield this process's ports in turn: no two workers of a test run have one in common."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # noqa: TID251  # the test run's own
    first = _FIRST + int(worker.removeprefix("gw")) % _WORKERS * _EACH
    begin = random.randrange(_EACH)
    return (first + (begin + number) % _EACH for number in itertools.count())


_ports: Final = _candidates()


def free_port() -> int:
    """Return a port that is free for TCP and UDP, outside of the range of outgoing connections."""
    while True:
        port = next(_ports)
        with suppress(OSError), socket.socket(socket.AF_INET6) as tcp:
            tcp.bind(("::", port))
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
                udp.bind(("::", port))
                return port
