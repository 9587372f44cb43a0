"""A UDP forwarder that delays datagrams: a distant region, without a kernel module for delays.

``python delaying.py <listen address> <port> <to address> <to port> <seconds>`` forwards in both
directions, each with half of the delay. WireGuard replies to the address from which a packet came,
so the replies take the same way if the other side has no address of the client.
"""

import heapq
import select
import socket
import sys
import time
from typing import Any, Final

_LARGEST: Final = 65_535
Queued = tuple[float, int, socket.socket, bytes, Any]
"""Due time, order, the socket to send from, the datagram, and its destination."""


def forward(listening: socket.socket, to: tuple[str, int], delay: float) -> None:
    """Forward until killed."""
    upstreams: dict[Any, socket.socket] = {}
    clients: dict[socket.socket, Any] = {}
    queue: list[Queued] = []
    count = 0
    while True:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, sender, data, destination = heapq.heappop(queue)
            try:
                sender.sendto(data, destination)
            except OSError:
                continue  # no program listens there now
        pause = max(queue[0][0] - now, 0.0) if queue else None
        for ready in select.select([listening, *clients], [], [], pause)[0]:
            try:
                data, source = ready.recvfrom(_LARGEST)
            except OSError:
                continue  # an ICMP error for an earlier datagram
            if ready is not listening:
                out, destination = listening, clients[ready]
            else:
                if source not in upstreams:
                    upstreams[source] = _bound(to[0], 0)
                    clients[upstreams[source]] = source
                out, destination = upstreams[source], to
            count += 1
            heapq.heappush(queue, (time.monotonic() + delay / 2, count, out, data, destination))


def _bound(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind((host, port))
    return found


if __name__ == "__main__":
    here, port, there, to_port, seconds = sys.argv[1:]
    with _bound(here, int(port)) as opened:
        sys.stdout.write("up\n")
        sys.stdout.flush()
        forward(opened, (there, int(to_port)), float(seconds))
