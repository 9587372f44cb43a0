"""The gap in the traffic after the upstream in use is killed, stopped, or cut off.

A udp2tcp with two upstreams carries a datagram each millisecond, and the far side replies to it.
The messages resemble WireGuard's in their first bytes and sizes, which is all that a relay
examines. Handshake initiations are sent when WireGuard would send them. Each upstream has a
separate sink at the far side, which shows the upstream in use.
"""

import contextlib
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.integration.relay.programs import OUR_KIND, Program, text
from tests.netns_support import Namespace, run

from benchmarks.relay.pairs import Figures, rounded, table
from dstack_vpn.core.wireguard.wire import INITIATION_SIZE

BEFORE: Final = 1.0
"""Seconds of traffic before an upstream fails, and after the traffic returns."""
LONGEST: Final = 40.0
"""The timeout of each step, in seconds."""
EVERY: Final = 0.001
"""Seconds between datagrams."""
REKEY_TIMEOUT: Final = 5.0
"""Seconds until WireGuard repeats a handshake initiation (whitepaper, section 6.1)."""
SILENCE: Final = 15.0
"""Seconds without a reply until the first initiation (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)."""
DATA: Final = b"\4\0\0\0"
INITIATION: Final = b"\1\0\0\0".ljust(INITIATION_SIZE, b"\0")
RESPONSE: Final = b"\2\0\0\0".ljust(92, b"\0")

Fault = Callable[[Program], object]


def failover() -> Figures:
    """Measure the gap (ms) and the lost datagrams for each fault."""
    results: Figures = {}
    rows: list[Sequence[object]] = []
    for name, (fault, handshake) in FAULTS.items():
        results[name] = _measured(fault, handshake=handshake)
        rows.append((name, *results[name].values()))
    table("failover", ("the upstream in use is", "gap ms", "lost of a datagram each ms"), rows)
    return results


def _kill(program: Program) -> None:
    program.process.kill()


def _stop(program: Program) -> None:
    program.process.send_signal(signal.SIGSTOP)


def _cut_off(program: Program) -> None:
    assert program.address is not None
    port = program.address[1]
    chain = "chain input { type filter hook input priority 0; }"
    drop = "\n".join(f"add rule inet cut input tcp {side} {port} drop" for side in ("dport", "sport"))
    run("nft", "-f", "-", text=f"table inet cut {{ {chain}; }}\n{drop}\n")


FAULTS: Final[dict[str, tuple[Fault, bool]]] = {
    "killed": (_kill, False),
    "stopped, in a handshake": (_stop, True),
    "stopped": (_stop, False),
    "cut off, in a handshake": (_cut_off, True),
    "cut off": (_cut_off, False),
}


@dataclass
class Traffic:
    """Messages like WireGuard's, from a source to the sinks and back.

    Times are monotonic seconds.
    """

    source: socket.socket
    sinks: Sequence[socket.socket]
    sent: int = 0
    answered: int = 0
    last_sink: int = 0
    """The index of the sink that received the latest datagram."""
    heard: float = field(default_factory=time.monotonic)
    longest: float = 0.0
    """The longest time without a reply so far, in seconds."""
    initiate_at: float | None = None

    def run(self, until: Callable[[], object], timeout: float) -> None:
        """Send and reply until a condition holds; raises `TimeoutError` after ``timeout`` s."""
        ends = time.monotonic() + timeout
        next_at = time.monotonic()
        while not until():
            now = time.monotonic()
            if now >= ends:
                raise TimeoutError
            if now >= next_at:
                self._send(now)
                next_at = max(next_at + EVERY, now)
            readable, _, _ = select.select([self.source, *self.sinks], [], [], max(0.0, next_at - now))
            for ready in readable:
                self._hear() if ready is self.source else self._answer(ready)

    def _send(self, now: float) -> None:
        self.source.send(DATA + self.sent.to_bytes(4, "big") + bytes(88))
        self.sent += 1
        if self.initiate_at is None and now - self.heard >= SILENCE:
            self.initiate_at = now
        if self.initiate_at is not None and now >= self.initiate_at:
            self.source.send(INITIATION)
            self.initiate_at = now + REKEY_TIMEOUT

    def _hear(self) -> None:
        message, now = self.source.recv(2048), time.monotonic()
        self.longest = max(self.longest, now - self.heard)
        self.heard = now
        if message == RESPONSE:
            self.initiate_at = None
        else:
            self.answered += 1

    def _answer(self, sink: socket.socket) -> None:
        message, back = sink.recvfrom(2048)
        self.last_sink = self.sinks.index(sink)
        # The relay may have been killed since it sent this.
        with contextlib.suppress(ConnectionRefusedError):
            sink.sendto(RESPONSE if message == INITIATION else message, back)


def _measured(fault: Fault, *, handshake: bool) -> Figures:
    with _two_upstreams() as (traffic, upstreams):
        traffic.run(lambda: traffic.answered, LONGEST)
        traffic.run(partial(_after, time.monotonic() + BEFORE), LONGEST)
        used, traffic.longest = traffic.last_sink, 0.0
        traffic.sent = traffic.answered = 0
        fault(upstreams[used])
        if handshake:
            traffic.initiate_at = time.monotonic()
        try:
            traffic.run(lambda: traffic.last_sink != used, LONGEST)
        except TimeoutError:
            return {"gap_ms": None, "lost": None}
        traffic.run(partial(_after, time.monotonic() + BEFORE), LONGEST)
        return {"gap_ms": rounded(traffic.longest * 1000), "lost": traffic.sent - traffic.answered}


def _after(moment: float) -> bool:
    return time.monotonic() >= moment


@contextlib.contextmanager
def _two_upstreams() -> Iterator[tuple[Traffic, list[Program]]]:
    """Start two upstreams and a relay in a new namespace, in which a fault can drop packets."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(stack.enter_context(Namespace("failover")).entered())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source, *sinks = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        )
        upstreams = []
        for sink in sinks:
            sink.bind(("127.0.0.1", 0))
            upstreams.append(
                stack.enter_context(OUR_KIND.running("tcp2udp", text(sink.getsockname()), folder))
            )
        to = ",".join(upstream.url for upstream in upstreams)
        entry = stack.enter_context(OUR_KIND.running("udp2tcp", to, folder))
        assert entry.address is not None
        source.connect(entry.address)
        yield Traffic(source, sinks), upstreams
