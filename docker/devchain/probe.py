"""Count the datagrams that a tunnel loses, there or back.

    probe.py echo ADDRESS PORT             reply until stopped
    probe.py send ADDRESS PORT INTERVAL    send one every INTERVAL seconds until standard input ends

The sender then prints the counts as JSON. `gap` is the longest time, in seconds, between the
sending of two successive datagrams that came back.
"""

import contextlib
import itertools
import json
import select
import socket
import struct
import sys
import time

IP_FREEBIND = 15  # linux/in.h; Python 3.13 has no name for it


def echo(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        sock.bind(address)
        while True:
            data, sender = sock.recvfrom(2048)
            with contextlib.suppress(OSError):  # the tunnel is down
                sock.sendto(data, sender)


def send(address: tuple[str, int], interval: float) -> None:
    sent: list[float] = []
    answered: set[int] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        due, stop = time.monotonic(), None
        while stop is None or time.monotonic() < stop:
            now = time.monotonic()
            if stop is None and now >= due:
                with contextlib.suppress(OSError):  # a failed send counts as sent, and as lost
                    sock.sendto(struct.pack("!I", len(sent)), address)
                sent.append(now)
                due += interval
            wait = max(0.0, min(due, stop or due) - time.monotonic()) if stop is None else 0.05
            readable = select.select([sock, *([sys.stdin] if stop is None else [])], [], [], wait)[0]
            if sys.stdin in readable and not sys.stdin.buffer.read(1):
                stop = time.monotonic() + 1.0  # wait for replies in transit
            while True:
                try:
                    answered.add(struct.unpack("!I", sock.recv(2048))[0])
                except (BlockingIOError, ConnectionError):
                    break
    came = sorted(answered)
    gap = max((sent[b] - sent[a] for a, b in itertools.pairwise(came)), default=0.0)
    print(
        json.dumps({"sent": len(sent), "lost": len(sent) - len(answered), "gap": round(gap, 3)}), flush=True
    )


if __name__ == "__main__":
    place = (sys.argv[2], int(sys.argv[3]))
    if sys.argv[1] == "echo":
        echo(place)
    send(place, float(sys.argv[4]))
