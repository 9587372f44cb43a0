"""A ping over UDP that counts lost packets and measures the longest gap, at any interval.

``ping -i 0.002`` needs a package, does not report gaps, and the kernel, not a program, replies to
its ICMP. In the namespaces, one side is ``python netns_ping.py echo <address> <port>`` and the
other is ``python netns_ping.py ping <address> <port> <interval>``, which runs until its standard
input is closed and then prints a line of JSON.
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

# As a script, this module's directory is on the path, not its parent.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.netns_support import Namespace, wait_until  # after the change of the path

GRACE: Final = 0.5
"""Seconds to wait for replies after the last packet."""


@dataclass(frozen=True)
class Report:
    """The result of a ping; times in seconds."""

    sent: int
    lost: int
    longest_gap: float
    """The longest time between two successive replies."""


class Ping:
    """A ping from one namespace to an address of another, during the context."""

    def __init__(
        self, source: Namespace, target: Namespace, address: str, *, port: int = 7007, interval: float = 0.002
    ) -> None:
        self._ends = (source, target)
        self._where = (address, str(port))
        self._interval = str(interval)
        self._running: list[Popen[str]] = []
        self.report: Report | None = None
        """The result, after the end of the context."""

    def __enter__(self) -> Self:
        source, target = self._ends
        script = str(Path(__file__).resolve())
        self._running.append(target.popen(sys.executable, script, "echo", *self._where, stdout=PIPE))
        self._first_line(self._running[0])
        pace = (*self._where, self._interval)
        self._running.append(source.popen(sys.executable, script, "ping", *pace, stdin=PIPE, stdout=PIPE))
        # Wait for the first reply, to exclude the time of a handshake.
        self._first_line(self._running[1])
        return self

    def _first_line(self, process: "Popen[str]") -> None:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, "no reply within 30 s"
        assert process.stdout.readline(), "the process exited early"

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
        _print("ready")
        while True:
            data, caller = answering.recvfrom(2048)
            answering.sendto(data, caller)


def ping(address: str, port: int, interval: float) -> None:
    with _bound(address) as calling:
        calling.connect((address, port))
        calling.setblocking(False)
        _first_answer(calling)
        _print("ready")
        _print(json.dumps(asdict(_flood(calling, interval))))


def _first_answer(calling: socket.socket) -> None:
    def answered() -> bool:
        _send(calling, b"hello")
        return bool(select.select([calling], [], [], 0.05)[0]) and bool(calling.recv(2048))

    wait_until(answered, "the first reply", 30)


def _send(calling: socket.socket, data: bytes) -> None:
    # A failed send counts as sent, and thus as lost.
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


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["echo", where, number]:
            echo(where, int(number))
        case ["ping", where, number, seconds]:
            ping(where, int(number), float(seconds))
