"""A ping between two nodes that never stops, and what of it got lost between two moments.

Loss is counted by sequence numbers: from a packet that was sent after the first moment to one that
was sent after the second, and came back. A tunnel that is down has no such packet, which is an
error of its own.

An answer that finds ping's own socket full has come back all the same. The socket holds about 150
answers. After a stall more of them can arrive at once, before ping has its turn on a busy machine.
The kernel counts them for each socket, and they are not lost here.
"""

import itertools
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.namespaces import Namespace
from dstack_vpn.errors import AdminError

INTERVAL: Final = 0.005
"""Default seconds between packets."""
_REPLY: Final = re.compile(rb"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=([0-9.]+) ms$", re.MULTILINE)
_POLL: Final = 0.01
_OVERTAKEN: Final = 1.0
"""Seconds that an answer may come after a later one's."""
_TABLES: Final = ("icmp", "icmp6", "raw", "raw6")
"""Where the kernel lists the sockets that ping may have (proc(5), /proc/<pid>/net)."""
_INODE: Final = 9
"""The column of such a table; the last one counts what found the socket full."""


@dataclass(frozen=True)
class Loss:
    """The fate of the packets between two marks."""

    sent: int
    lost: int
    longest_gap: float
    """Seconds between two answers in a row, at most."""
    overrun: int = 0
    """Answers that came back, and found ping's socket full."""


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
        self._overruns: dict[int, tuple[int, int]] = {}
        """For each mark, the count before and after its answer was seen."""

    @property
    def received(self) -> int:
        """The number of replies."""
        self._follow()
        return len(self._replies)

    def mark(self, *, at_least: int = 0, timeout: float = 10.0) -> int:
        """The sequence number, ``at_least`` or later, of a packet that is sent after this call and
        answered.

        Raises `AdminError` if there is none within ``timeout`` seconds.
        """
        now, deadline = time.time(), time.monotonic() + timeout  # noqa: TID251 - ping -D tells this clock
        while time.monotonic() < deadline:
            before = self._overrun()
            self._follow()
            if self._replies and self._replies[-1].sent > now and self._replies[-1].sequence >= at_least:
                marked = self._replies[-1].sequence
                self._overruns[marked] = (before, self._overrun())
                return marked
            time.sleep(_POLL)
        raise AdminError(f"the ping was not answered for {timeout:g} s (its output: {self._output})")

    def between(self, first: int, last: int) -> Loss:
        """Return what was sent after one mark up to another, and what of it was lost.

        A later answer may overtake another: what is missing is waited for.
        """
        deadline = time.monotonic() + _OVERTAKEN
        while (found := self._found(first, last)).lost and time.monotonic() < deadline:
            time.sleep(_POLL)
            self._follow()
        return found

    def _found(self, first: int, last: int) -> Loss:
        """Return what is known of the packets between two marks."""
        replies = [reply for reply in self._replies if first <= reply.sequence <= last]
        sent, seen = last - first + 1, {reply.sequence for reply in replies}
        gaps = (after.received - before.received for before, after in itertools.pairwise(replies))
        # Only answers that were certainly dropped between the marks: never more than there were.
        overrun = max(self._overruns[last][0] - self._overruns[first][1], 0)
        overrun = min(overrun, sent - len(seen))
        return Loss(sent, sent - len(seen) - overrun, max(gaps, default=0.0), overrun)

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

    def _overrun(self) -> int:
        """How many answers have found ping's socket full so far."""
        process, found = Path(f"/proc/{self._process.pid}"), 0
        with suppress(OSError):  # it has ended
            inodes = set(map(_inode, process.glob("fd/*")))
            tables = [(process / "net" / name).read_text() for name in _TABLES]
            sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
            found = sum(int(fields[-1]) for fields in sockets if fields[_INODE] in inodes)
        return found

    def _unwrapped(self, sequence: int) -> int:
        """ICMP's sequence numbers have 16 bits."""
        before = self._replies[-1].sequence if self._replies else 0
        return sequence + 65536 * round((before - sequence) / 65536)


def _inode(descriptor: Path) -> str | None:
    """The number of a socket, of a process's descriptor; None: it is no socket."""
    try:
        found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
    except OSError:
        return None  # closed meanwhile
    return None if found is None else found[1]
