"""What a thousand connections cost that have carried one datagram and are silent since: resident
memory.

Each comes from an address of its own, so that no limit for one address is met. What the kernel
keeps for their sockets is not in it.
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
"""Connections before the measurement begins: the first ones also pay for shared buffers."""
INITIATION: Final = bytes([1]) + bytes(147)
"""Of a WireGuard handshake, as far as a relay can tell."""
PATIENCE: Final = 5.0
"""Seconds."""

Connect = Callable[[Program, str], bool]
"""Make a connection from an address, and send a datagram over it; whether it has arrived."""


def idle() -> Figures:
    """Kilobytes per connection of tcp2udp and per source of udp2tcp (Mullvad's serves one)."""
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
                # Whoever it is: this is a measurement on one machine.
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
    """Until the first that is not served, should there be one."""
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
    """For this process and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
