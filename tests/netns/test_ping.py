"""The demo's count of lost packets: real ping(8), in a tunnel whose far end is the test."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.ping import Ping
from tests.netns_support import Namespace, is_usable, wait_until

from dstack_vpn.adapters.device.process import open_tun

pytestmark = pytest.mark.netns
IPV4 = b"\x00\x00\x08\x00"
"""The header of a packet on a TUN interface (linux/if_tun.h, struct tun_pi)."""
STALLED = 250
"""Packets. The buffer of ping's socket holds about 150 replies."""
LOST = 7
"""Packets without a reply."""


class FarEnd(threading.Thread):
    """A thread that replies to echo requests, or holds the replies back."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self.holding = self.ended = False
        self.held: list[bytes] = []
        self._descriptor = descriptor

    def run(self) -> None:
        while not self.ended:
            if select.select([self._descriptor], [], [], 0.01)[0]:
                packet = os.read(self._descriptor, 2048).removeprefix(IPV4)
                if packet[0] == 0x45 and packet[9] == 1:
                    self.held.append(answer(packet))
            while self.held and not self.holding:
                os.write(self._descriptor, IPV4 + self.held.pop(0))


def answer(request: bytes) -> bytes:
    """Return the echo reply. Its type is 0 instead of 8, so the checksum is 0x0800 higher."""
    total = int.from_bytes(request[22:24], "big") + 0x0800
    total = (total & 0xFFFF) + (total >> 16)
    swapped = request[:12] + request[16:20] + request[12:16]
    return swapped + b"\0\0" + total.to_bytes(2, "big") + request[24:]


@pytest.fixture
def inside() -> Iterator[Namespace]:
    if not is_usable():
        pytest.skip("NO ROOT, NAMESPACES OR TUN: this test is SKIPPED; run it as root")
    with Namespace() as namespace:
        yield namespace


@pytest.fixture
def far_end(inside: Namespace) -> Iterator[FarEnd]:
    with inside.entered():
        descriptor = open_tun("far0", offloads=False, new=True)
    inside.run("ip", "address", "add", "10.9.9.1/24", "dev", "far0")
    inside.run("ip", "link", "set", "far0", "up")
    far = FarEnd(descriptor)
    far.start()
    yield far
    far.ended = True
    far.join()
    os.close(descriptor)


def test_answers_that_find_pings_own_socket_full_are_not_lost(
    inside: Namespace, far_end: FarEnd, tmp_path: Path
) -> None:
    ping = Ping(inside, "10.9.9.2", tmp_path / "ping.log", interval=0.002)
    first = ping.mark()
    far_end.holding = True
    wait_until(lambda: len(far_end.held) > STALLED, "many packets wait for replies")
    pid = inside.pid_of("ping")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    del far_end.held[:LOST]
    far_end.holding = False
    wait_until(lambda: not far_end.held, "all replies are sent while ping is stopped")
    os.kill(pid, signal.SIGCONT)
    found = ping.between(first, ping.mark())
    ping.stop()
    assert found.lost == LOST
    assert found.overrun > 0


def test_an_answer_that_a_later_one_overtakes_is_not_lost(
    inside: Namespace, far_end: FarEnd, tmp_path: Path
) -> None:
    ping = Ping(inside, "10.9.9.2", tmp_path / "ping.log", interval=0.002)
    first = ping.mark()
    far_end.holding = True
    wait_until(lambda: len(far_end.held) > 1, "packets wait for replies")
    overtaken = far_end.held.pop(0)
    far_end.holding = False
    last = ping.mark()
    late = threading.Timer(0.1, far_end.held.append, [overtaken])
    late.start()
    found = ping.between(first, last)
    ping.stop()
    assert found.lost == 0
