"""A ping over UDP that counts what got lost and tells the longest silence, at any pace.

``ping -i 0.002`` needs a package, says nothing of gaps, and its ICMP is answered by a kernel, not by a
program. Run inside a namespace as ``python netns_ping.py echo <address> <port>`` on one side and
``python netns_ping.py ping <address> <port> <interval>`` on the other, which goes on until its standard
input is closed and then prints one line of JSON.
"""

import contextlib
import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Final, Self

# Also a script, whose directory is on the path, not its parent.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.netns_support import Namespace, wait_until  # the path comes first

GRACE: Final = 0.5
"""Seconds after the last packet in which its answer still counts."""


@dataclass(frozen=True)
class Report:
    """What a ping found; times in seconds."""

    sent: int
    lost: int
    longest_gap: float
    """Between two answers in a row."""


class Ping:
    """A ping from one namespace to an address of another, for as long as the context lasts."""

    def __init__(
        self, source: Namespace, target: Namespace, address: str, *, port: int = 7007, interval: float = 0.002
    ) -> None:
        self._ends = (source, target)
        self._where = (address, str(port))
        self._interval = str(interval)
        self._running: list[Popen[str]] = []
        self.report: Report | None = None
        """What was found, once the context has ended."""

    def __enter__(self) -> Self:
        source, target = self._ends
        script = str(Path(__file__).resolve())
        self._running.append(target.popen(sys.executable, script, "echo", *self._where, stdout=PIPE))
        self._first_line(self._running[0])
        pace = (*self._where, self._interval)
        self._running.append(source.popen(sys.executable, script, "ping", *pace, stdin=PIPE, stdout=PIPE))
        # The first answer: a handshake's time is not what is measured.
        self._first_line(self._running[1])
        return self

    def _first_line(self, process: "Popen[str]") -> None:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, "no answer within 30 s"
        assert process.stdout.readline(), "it ended early"

    def __exit__(self, *raised: object) -> None:
        if len(self._running) == 2:
            text, _ = self._running[1].communicate(timeout=30)
            self.report = Report(**json.loads(text))
        for process in self._running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


# -- inside the namespaces -------------------------------------------------------------------------


def _bound(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def echo(address: str, port: int) -> None:
    with _bound(address) as answering:
        answering.bind((address, port))
        _say("ready")
        while True:
            data, caller = answering.recvfrom(2048)
            answering.sendto(data, caller)


def ping(address: str, port: int, interval: float) -> None:
    with _bound(address) as calling:
        calling.connect((address, port))
        calling.setblocking(False)
        _first_answer(calling)
        _say("ready")
        _say(json.dumps(asdict(_flood(calling, interval))))


def _first_answer(calling: socket.socket) -> None:
    def answered() -> bool:
        _send(calling, b"hello")
        return bool(select.select([calling], [], [], 0.05)[0]) and bool(calling.recv(2048))

    wait_until(answered, "the first answer", 30)


def _send(calling: socket.socket, data: bytes) -> None:
    # No route, or refused: it counts as sent, and so as lost.
    with contextlib.suppress(OSError):
        calling.send(data)


def _flood(calling: socket.socket, interval: float) -> Report:
    sent, seen, longest = 0, set[int](), 0.0
    last = due = time.monotonic()
    end = 0.0
    while not end or time.monotonic() < end:
        pause = max(0.0, due - time.monotonic())
        ready, _, _ = select.select([calling, *([] if end else [sys.stdin])], [], [], pause)
        if sys.stdin in ready:
            end = time.monotonic() + GRACE
        if calling in ready and (data := _received(calling)) and data != b"hello":
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            seen.add(int(data))
        if time.monotonic() >= due and not end:
            _send(calling, str(sent).encode())
            sent, due = sent + 1, due + interval
        elif end:
            due = end
    return Report(sent, sent - len(seen), longest)


def _received(calling: socket.socket) -> bytes:
    try:
        return calling.recv(2048)
    except OSError:
        return b""


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["echo", where, number]:
            echo(where, int(number))
        case ["ping", where, number, seconds]:
            ping(where, int(number), float(seconds))
