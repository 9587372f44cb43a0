"""Hostile input to a tcp2udp: bounded in time and memory, counted, logged once, no crash."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.relay.conftest import PATIENCE
from tests.integration.relay.programs import OUR_KIND, OUR_TLS, Kind, Program
from tests.netns_support import wait_until
from tests.ports import free_port

from dstack_vpn.core.wireguard.framing import frame

MEMORY = 12 << 20
"""Bytes that memory may grow permanently: the buffers of a batch, and the allocator's overhead."""


@dataclass
class Relay:
    """A tcp2udp under test, and its target."""

    program: Program
    web: int
    sink: socket.socket

    def connect(self) -> socket.socket:
        assert self.program.address is not None
        made = socket.create_connection(self.program.address, timeout=PATIENCE)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def stats(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/stats")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def memory(self) -> int:
        """Return the resident set size in bytes."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def logged(self, event: str) -> int:
        return sum(found["event"] == event for found in self.program.events)

    def serves(self) -> None:
        """Check that the relay carries a well-behaved client's datagrams both ways."""
        with self.connect() as client:
            client.sendall(frame(b"a datagram"))
            data, peer = self.expect(b"a datagram")
            self.sink.sendto(b"an answer", peer)
            assert client.recv(100) == frame(b"an answer")
            assert data == b"a datagram"

    def expect(self, wanted: bytes) -> tuple[bytes, Any]:
        """Return the next datagram with this content. Skip others, which the test sent before."""
        while True:
            data, peer = self.sink.recvfrom(65535)
            if data == wanted:
                return data, peer


@contextlib.contextmanager
def relay_of(kind: Kind, sink: socket.socket, folder: Path, **settings: Any) -> Iterator[Relay]:
    web = free_port()
    host, port = sink.getsockname()
    with kind.running("tcp2udp", f"{host}:{port}", folder, HEALTH_CHECK_PORT=str(web), **settings) as program:
        found = Relay(program, web, sink)
        found.serves()
        yield found
        assert program.process.poll() is None
        found.serves()


@pytest.fixture
def relay(sink: socket.socket, tmp_path: Path) -> Iterator[Relay]:
    with relay_of(OUR_KIND, sink, tmp_path) as found:
        yield found


def closed(connection: socket.socket) -> bool:
    """Return whether the other side closes the connection without a reply."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


# -- the stream ------------------------------------------------------------------------------------


def test_an_empty_frame_is_an_empty_datagram(relay: Relay) -> None:
    with relay.connect() as client:
        client.sendall(frame(b"") + frame(b"next"))
        assert relay.sink.recv(100) == b""
        assert relay.sink.recv(100) == b"next"


def test_a_frame_too_long_for_udp_is_dropped_and_the_stream_goes_on(relay: Relay) -> None:
    with relay.connect() as client:
        client.sendall(frame(b"begin") + frame(bytes(65535)) + frame(b"next"))
        assert relay.sink.recv(100) == b"begin"
        assert relay.sink.recv(100) == b"next"
    wait_until(lambda: sum(relay.stats()["drops"].values()) == 1, "the counter of drops")


def test_one_byte_at_a_time_is_a_stream_like_any_other(relay: Relay) -> None:
    with relay.connect() as client:
        for byte in frame(b"slowly") + frame(b"but well"):
            client.send(bytes([byte]))
        assert relay.sink.recv(100) == b"slowly"
        assert relay.sink.recv(100) == b"but well"


def test_a_truncated_frame_is_no_datagram(relay: Relay) -> None:
    with relay.connect() as client:
        client.sendall(frame(b"whole") + b"\x00\x10half")
    assert relay.sink.recv(100) == b"whole"
    relay.serves()
    relay.sink.settimeout(0.1)
    with pytest.raises(TimeoutError):
        relay.sink.recv(100)
    relay.sink.settimeout(PATIENCE)


def test_garbage_is_datagrams_and_no_more(relay: Relay) -> None:
    before = relay.memory()
    for _ in range(50):
        with relay.connect() as client, contextlib.suppress(OSError):
            client.sendall(os.urandom(1 << 16))
    wait_until(lambda: relay.stats()["connections"] == 0, "all connections are closed")
    relay.sink.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            relay.sink.recv(65535)
    relay.sink.settimeout(PATIENCE)
    assert relay.memory() - before < MEMORY


def test_clients_that_announce_a_frame_and_stop_hold_what_they_sent_and_no_more(relay: Relay) -> None:
    before = relay.memory()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(relay.connect()) for _ in range(200)]
        for client in clients:
            client.sendall(frame(b"x") + b"\xff\xff")
        wait_until(lambda: relay.stats()["datagrams_down"] >= 200, "all datagrams arrived")
        assert relay.memory() - before < MEMORY


# -- other protocols -------------------------------------------------------------------------------

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", TLS_HELLO, b"SSH-2.0-OpenSSH\r\n"])
def test_another_protocol_is_turned_away(relay: Relay, opening: bytes) -> None:
    for _ in range(5):
        with relay.connect() as client:
            client.sendall(opening)
            assert closed(client)
    assert relay.stats()["foreign"] == 5
    assert sum("speaks" in json.dumps(event) for event in relay.program.events) == 1


def test_plain_bytes_on_a_tls_port_are_turned_away(sink: socket.socket, tmp_path: Path) -> None:
    web = free_port()
    host, port = sink.getsockname()
    with OUR_TLS.running("tcp2udp", f"{host}:{port}", tmp_path, HEALTH_CHECK_PORT=str(web)) as program:
        relay = Relay(program, web, sink)
        for _ in range(5):
            with relay.connect() as client:
                client.sendall(frame(b"not TLS at all"))
                assert ended(client)
        assert relay.stats()["handshake_failures"] == 5
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(relay.connect()) as client:
            client.sendall(frame(b"in TLS"))
            assert sink.recv(100) == b"in TLS"


def ended(connection: socket.socket) -> bool:
    """Return whether the other side closes the connection, perhaps after a TLS alert."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


# -- load ------------------------------------------------------------------------------------------


def test_a_client_that_never_reads_costs_no_memory_and_delays_nobody(relay: Relay) -> None:
    with relay.connect() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.sendall(frame(b"I am here"))
        _, peer = relay.expect(b"I am here")
        before = relay.memory()
        for _ in range(60_000):
            with contextlib.suppress(OSError):
                relay.sink.sendto(bytes(1400), peer)
        wait_until(lambda: relay.stats()["queued_bytes"] > 0, "the relay has a queue")
        relay.serves()
        assert relay.memory() - before < MEMORY
        assert relay.stats()["queued_bytes"] <= 1 << 19


def test_ten_thousand_connects_are_bounded_and_the_clients_of_before_still_served(
    sink: socket.socket, tmp_path: Path
) -> None:
    with relay_of(OUR_KIND, sink, tmp_path, RELAY_MAX_CONNECTIONS="200") as relay:
        with relay.connect() as client:
            client.sendall(frame(b"first"))
            _, peer = relay.expect(b"first")
            before = relay.memory()
            for _ in range(100):
                flood(relay, 100)
            client.sendall(frame(b"still here"))
            relay.expect(b"still here")
            relay.sink.sendto(b"you too", peer)
            assert client.recv(100) == frame(b"you too")
            assert relay.memory() - before < MEMORY
        wait_until(lambda: relay.stats()["connections"] == 0, "all connections are closed")


def flood(relay: Relay, count: int) -> None:
    """Begin connections without a wait, and close all at once."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            made = stack.enter_context(socket.socket())
            made.setblocking(False)
            made.connect_ex(relay.program.address or ("", 0))


def test_no_address_may_take_all_connections(sink: socket.socket, tmp_path: Path) -> None:
    with relay_of(OUR_KIND, sink, tmp_path, RELAY_MAX_PER_SOURCE="3") as relay:
        with contextlib.ExitStack() as stack:
            for number in range(3):
                client = stack.enter_context(relay.connect())
                client.sendall(frame(b"%d" % number))
                relay.expect(b"%d" % number)
            for _ in range(20):
                assert closed(stack.enter_context(relay.connect()))
            assert relay.stats()["refused"] == 20
            assert relay.logged("relay.limit") == 1
        wait_until(lambda: relay.stats()["connections"] == 0, "all connections are closed")


def few_descriptors(command: list[str], **options: Any) -> "subprocess.Popen[str]":
    """Start a relay with a hard limit of 64 open files."""
    return subprocess.Popen(["prlimit", "--nofile=64:64", "--", *command], **options)


def test_without_descriptors_connections_wait_and_the_processor_rests(
    sink: socket.socket, tmp_path: Path
) -> None:
    host, port = sink.getsockname()
    with (
        OUR_KIND.running("tcp2udp", f"{host}:{port}", tmp_path, popen=few_descriptors) as program,
        contextlib.ExitStack() as stack,
    ):
        assert program.address is not None
        relay = Relay(program, 0, sink)
        served = stack.enter_context(relay.connect())
        served.sendall(frame(b"first"))
        relay.expect(b"first")
        crowd = [stack.enter_context(relay.connect()) for _ in range(100)]
        for client in crowd:
            client.sendall(frame(b"x"))
        wait_until(lambda: relay.logged("relay.accept_failed"), "the log: no descriptors")
        used = cpu_seconds(program.process.pid)
        time.sleep(1.0)  # the interval in which the processor time is measured
        assert cpu_seconds(program.process.pid) - used < 0.5
        served.sendall(frame(b"still"))
        relay.expect(b"still")
        for client in crowd:
            client.close()
        relay.serves()
        assert relay.logged("relay.refused") == 0
        assert relay.logged("relay.few_descriptors") == 1


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
