"""A ping between two nodes that never stops, and what of it got lost between two moments.

Loss is counted by sequence numbers: from a packet that was sent after the first moment to one that was sent
after the second, and came back. A tunnel that is down has no such packet, which is an error of its own.
"""

import itertools
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.namespaces import Namespace
from dstack_vpn.errors import AdminError

INTERVAL: Final = 0.005
"""Seconds between packets, unless told otherwise."""
_REPLY: Final = re.compile(rb"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=([0-9.]+) ms$", re.MULTILINE)
_POLL: Final = 0.01


@dataclass(frozen=True)
class Loss:
    """What happened to the packets between two marks."""

    sent: int
    lost: int
    longest_gap: float
    """Seconds between two answers in a row, at most."""


@dataclass(frozen=True)
class _Reply:
    sequence: int
    sent: float
    received: float


class Ping:
    """ping(8), running."""

    def __init__(self, source: Namespace, address: str, output: Path, *, interval: float = INTERVAL) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = source.popen(
                *("ping", "-n", "-D", "-i", str(interval), address),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._replies: list[_Reply] = []
        self._read = 0

    @property
    def received(self) -> int:
        """How many answers have come."""
        self._follow()
        return len(self._replies)

    def mark(self, *, at_least: int = 0, timeout: float = 10.0) -> int:
        """The sequence number, ``at_least`` or later, of a packet that is sent after this call and answered.

        Raises `AdminError` where there is none within ``timeout`` seconds.
        """
        now, deadline = time.time(), time.monotonic() + timeout  # noqa: TID251 - ping -D tells this clock
        while time.monotonic() < deadline:
            self._follow()
            if self._replies and self._replies[-1].sent > now and self._replies[-1].sequence >= at_least:
                return self._replies[-1].sequence
            time.sleep(_POLL)
        raise AdminError(f"the ping was not answered for {timeout:g} s (its output: {self._output})")

    def between(self, first: int, last: int) -> Loss:
        """What was sent after one mark up to another, and what of it was lost."""
        replies = [reply for reply in self._replies if first <= reply.sequence <= last]
        seen = {reply.sequence for reply in replies}
        gaps = (after.received - before.received for before, after in itertools.pairwise(replies))
        return Loss(last - first + 1, last - first + 1 - len(seen), max(gaps, default=0.0))

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(5)

    def _follow(self) -> None:
        with self._output.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole + newline)
        for found in _REPLY.finditer(whole):
            received, round_trip = float(found[1]), float(found[3]) / 1000
            self._replies.append(_Reply(self._unwrapped(int(found[2])), received - round_trip, received))

    def _unwrapped(self, sequence: int) -> int:
        """ICMP's sequence numbers have 16 bits."""
        before = self._replies[-1].sequence if self._replies else 0
        return sequence + 65536 * round((before - sequence) / 65536)
