"""WireGuard's port is closed for a moment: the kernel reports an error on the relay's socket."""

import os
import socket
import struct
import subprocess
import time
from contextlib import closing

from tests.integration.relay.programs import ENVIRONMENT, OURS
from tests.netns_support import wait_until
from tests.ports import free_port


def test_a_wireguard_that_comes_back_is_heard_again() -> None:
    listen, target = free_port(), free_port()
    command = [*OURS, "tcp2udp", "--listen", f"tcp://127.0.0.1:{listen}", "--to", f"127.0.0.1:{target}"]
    with subprocess.Popen(
        command, env={**ENVIRONMENT, "PATH": os.defpath}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as relay:
        try:
            wait_until(lambda: connects(listen), "the relay listens")
            with closing(socket.create_connection(("127.0.0.1", listen), 5)) as stream:
                stream.settimeout(5)
                for _ in range(3):  # to a closed port: each causes an ICMP error
                    stream.sendall(frame(b"hello?"))
                    time.sleep(0.1)  # for the ICMP error, whose arrival is not observable
                with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as wireguard:
                    wireguard.settimeout(5)
                    wireguard.bind(("127.0.0.1", target))
                    sender = None
                    while sender is None:
                        stream.sendall(frame(b"again"))
                        data, sender = wireguard.recvfrom(100)
                        sender = sender if data == b"again" else None
                    wireguard.sendto(b"here I am", sender)
                    assert stream.recv(100) == frame(b"here I am")
        finally:
            relay.terminate()


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def frame(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data
