"""The resident memory of a thousand idle connections, each of which has carried one datagram.

Each connection comes from a separate address, so that no limit per address applies. The kernel's
memory for the sockets is not included.
"""

import contextlib
import resource
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.integration.relay.programs import (
    MULLVADS,
    OUR_KIND,
    OUR_TLS,
    Address,
    Kind,
    Program,
    mullvad_is_there,
    text,
)

from benchmarks.harness import resident
from benchmarks.relay.pairs import Figures, table

CONNECTIONS: Final = 1000
FIRST: Final = 100
"""Connections before the measurement begins: the first ones also allocate shared buffers."""
INITIATION: Final = bytes([1]) + bytes(147)
"""A message that a relay takes for a WireGuard handshake initiation."""
PATIENCE: Final = 5.0
"""The timeout of socket operations, in seconds."""

Connect = Callable[[Program, str], bool]
"""Connects from an address and sends a datagram; returns whether it has arrived."""


def idle() -> Figures:
    """Measure the kB per connection of tcp2udp and per source of udp2tcp (Mullvad's serves one)."""
    _allow_open_files()
    results: Figures = {}
    for kind in (OUR_KIND, OUR_TLS, *([MULLVADS] if mullvad_is_there() else [])):
        results[f"tcp2udp, {kind.name}"] = _tcp2udp(kind)
    results["udp2tcp, ours"] = _udp2tcp(OUR_KIND)
    rows: list[Sequence[object]] = [
        (name, figures["open"], figures["rss_mb"], figures["kb_each"]) for name, figures in results.items()
    ]
    table("idle connections", ("program", "open", "resident MB", "kB each"), rows)
    return results


def _tcp2udp(kind: Kind) -> Figures:
    with contextlib.ExitStack() as stack, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(PATIENCE)
        program = stack.enter_context(kind.running("tcp2udp", text(sink.getsockname()), folder))

        def connect(program: Program, source: str) -> bool:
            connection: socket.socket = socket.create_connection(_address(program), PATIENCE, (source, 0))
            if kind.scheme == "tls":
                # Without verification, because both ends are on this machine.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                connection = context.wrap_socket(connection)
            stack.enter_context(connection)
            connection.sendall(len(INITIATION).to_bytes(2, "big") + INITIATION)
            return sink.recv(2048) == INITIATION

        return _measured(program, connect)


def _udp2tcp(kind: Kind) -> Figures:
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as server:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server.settimeout(PATIENCE)
        program = stack.enter_context(kind.running("udp2tcp", f"tcp://{text(server.getsockname())}", folder))

        def connect(program: Program, source: str) -> bool:
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.bind((source, 0))
            sender.sendto(INITIATION, _address(program))
            connection = stack.enter_context(server.accept()[0])
            connection.settimeout(PATIENCE)
            return connection.recv(2 + len(INITIATION), socket.MSG_WAITALL)[2:] == INITIATION

        return _measured(program, connect)


def _measured(program: Program, connect: Connect) -> Figures:
    """Connect until the first connection that is refused, or until `CONNECTIONS` are open."""
    opened, before = 0, 0.0
    with contextlib.suppress(OSError):
        for number in range(CONNECTIONS):
            if number == FIRST:
                before = resident(program.process.pid)["rss"]
            opened += connect(program, f"127.1.{number // 250}.{number % 250 + 1}")
    after = resident(program.process.pid)["rss"]
    each = (after - before) * 1024 / (opened - FIRST) if opened > FIRST else None
    return {"open": opened, "rss_mb": after, "kb_each": each and round(each, 1)}


def _address(program: Program) -> Address:
    assert program.address is not None
    return program.address


def _allow_open_files() -> None:
    """Raise the limit of open files for this process and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
