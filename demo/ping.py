"""A continuous ping between two nodes, and its packet loss between two moments.

Loss is counted by sequence numbers: from a packet sent after the first moment to an answered packet
sent after the second. A tunnel that is down has no such packet, which is a separate error.

ping's socket holds about 150 replies. After a stall more can arrive at once, before a busy machine
schedules ping. The kernel counts the replies that it dropped at each full socket; they are not
counted as lost here.
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
"""The longest delay in seconds behind the reply to a later packet."""
_TABLES: Final = ("icmp", "icmp6", "raw", "raw6")
"""The kernel's tables of the sockets that ping may have (proc(5), /proc/<pid>/net)."""
_INODE: Final = 9
"""The columns of a table; the last one counts packets dropped at a full socket."""


@dataclass(frozen=True)
class Loss:
    """The fate of the packets between two marks."""

    sent: int
    lost: int
    longest_gap: float
    """The longest time in seconds between two consecutive replies."""
    overrun: int = 0
    """Replies that were dropped at ping's full socket."""


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
        """For each mark, the count before and after its reply."""

    @property
    def received(self) -> int:
        """The number of replies."""
        self._follow()
        return len(self._replies)

    def mark(self, *, at_least: int = 0, timeout: float = 10.0) -> int:
        """The sequence number, ``at_least`` or later, of a packet that is sent after this call and
        answered.

        Raises `AdminError` after ``timeout`` seconds.
        """
        now, deadline = time.time(), time.monotonic() + timeout  # noqa: TID251 - ping -D prints this clock
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
        """Return the packets sent between two marks, and the lost ones.

        Replies may overtake each other, so missing ones are waited for.
        """
        deadline = time.monotonic() + _OVERTAKEN
        while (found := self._found(first, last)).lost and time.monotonic() < deadline:
            time.sleep(_POLL)
            self._follow()
        return found

    def _found(self, first: int, last: int) -> Loss:
        """Return the known fate of the packets between two marks."""
        replies = [reply for reply in self._replies if first <= reply.sequence <= last]
        sent, seen = last - first + 1, {reply.sequence for reply in replies}
        gaps = (after.received - before.received for before, after in itertools.pairwise(replies))
        # Only replies that were certainly dropped between the marks, so never too many.
        overrun = max(self._overruns[last][0] - self._overruns[first][1], 0)
        overrun = min(overrun, sent - len(seen))
        return Loss(sent, sent - len(seen) - overrun, max(gaps, default=0.0), overrun)

    def stop(self) -> None:
        """Stop it."""
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
        """Return the number of replies that were dropped at ping's full socket so far."""
        process, found = Path(f"/proc/{self._process.pid}"), 0
        with suppress(OSError):  # it has ended
            inodes = set(map(_inode, process.glob("fd/*")))
            tables = [(process / "net" / name).read_text() for name in _TABLES]
            sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
            found = sum(int(fields[-1]) for fields in sockets if fields[_INODE] in inodes)
        return found

    def _unwrapped(self, sequence: int) -> int:
        """Extend ICMP's sequence numbers, which have 16 bits."""
        before = self._replies[-1].sequence if self._replies else 0
        return sequence + 65536 * round((before - sequence) / 65536)


def _inode(descriptor: Path) -> str | None:
    """Return the inode of a descriptor's socket; None if it is not a socket."""
    try:
        found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
    except OSError:
        return None  # closed meanwhile
    return None if found is None else found[1]
