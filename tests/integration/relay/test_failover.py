"""udp2tcp with several upstreams: the upstream in use is killed, stopped or removed."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.integration.relay.conftest import PATIENCE, udp_socket
from tests.integration.relay.programs import OUR_KIND, OUR_TLS, Kind, Program
from tests.netns_support import wait_until

INITIATION = b"\x01\x00\x00\x00" + bytes(144)
"""A handshake initiation of WireGuard. No other message has this size."""


@contextmanager
def echo() -> Iterator[tuple[str, int]]:
    """Run a UDP echo server; yield its address."""
    with udp_socket() as made:
        made.settimeout(None)

        def serve() -> None:
            while True:
                try:
                    data, peer = made.recvfrom(65535)
                except OSError:
                    return
                if data == b"end":
                    return
                made.sendto(data, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = made.getsockname()
        try:
            yield address
        finally:
            with udp_socket() as last:
                last.sendto(b"end", address)
            thread.join(PATIENCE)


class Bench:
    """A udp2tcp with upstreams that lead to an echo server."""

    def __init__(self, folder: Path, stack: ExitStack, source: socket.socket) -> None:
        self.folder, self.stack, self.source = folder, stack, source
        self.target = stack.enter_context(echo())
        self.list = folder / "upstreams"
        self.list.touch(0o600)

    def upstream(self, kind: Kind = OUR_KIND) -> Program:
        host, port = self.target
        return self.stack.enter_context(kind.running("tcp2udp", f"{host}:{port}", self.folder))

    def write(self, *upstreams: Program | str) -> None:
        self.list.write_text(",".join(u if isinstance(u, str) else u.url for u in upstreams))

    def relay(self, *upstreams: Program | str) -> Program:
        """Start a udp2tcp that reads its upstreams from a file."""
        self.write(*upstreams)
        kind = Kind("listed", environment={"RELAY_MODE": "udp2tcp", "RELAY_TO_FILE": str(self.list)})
        program = self.stack.enter_context(running_by_environment(kind, self.folder))
        assert program.address is not None
        self.source.connect(program.address)
        return program

    def answered(self, datagram: bytes = b"ping", wait: float = 0.2) -> bool:
        self.source.settimeout(wait)
        try:
            self.source.send(datagram)
            return self.source.recv(65535) == datagram
        except (TimeoutError, ConnectionRefusedError):
            return False

    def drain(self) -> None:
        """Discard late replies."""
        self.source.settimeout(0.3)
        with_none_left = False
        while not with_none_left:
            try:
                self.source.recv(65535)
            except TimeoutError:
                with_none_left = True


@contextmanager
def running_by_environment(kind: Kind, folder: Path) -> Iterator[Program]:
    class FromEnvironment(Kind):
        def command(self, role: str, listen: tuple[str, int], to: str) -> list[str]:
            return super().command(role, listen, to)[:4]

    made = FromEnvironment(kind.name, environment={**kind.environment, "RELAY_LISTEN": "127.0.0.1:0"})
    with made.running("udp2tcp", "", folder) as program:
        yield program


def using(program: Program) -> str | None:
    """Return the upstream in use, from the log of a udp2tcp."""
    return next((e["upstream"] for e in reversed(program.events) if e["event"] == "relay.upstream"), None)


@pytest.fixture
def bench(tmp_path: Path, source: socket.socket) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack, source)


def name(program: Program) -> str:
    return program.url.partition("?")[0]


def test_the_first_upstream_that_can_be_had_is_used(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
    second = bench.upstream()
    relay = bench.relay(nobody, second)
    wait_until(bench.answered, "a reply")
    assert using(relay) == name(second)


def test_the_next_one_takes_over_when_the_upstream_is_killed(bench: Bench) -> None:
    first, second = bench.upstream(), bench.upstream(OUR_TLS)
    relay = bench.relay(first, second)
    wait_until(bench.answered, "a reply")
    assert using(relay) == name(first)
    first.process.kill()
    wait_until(bench.answered, "a reply by the second upstream")
    assert using(relay) == name(second)
    assert any(event["event"] == "relay.lost" for event in relay.events)


def test_an_upstream_that_is_stopped_is_left_when_a_handshake_is_not_answered(bench: Bench) -> None:
    first, second = bench.upstream(), bench.upstream()
    relay = bench.relay(first, second)
    wait_until(lambda: bench.answered(INITIATION), "a reply")
    first.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: bench.answered(INITIATION, 0.5), "a reply by the second", 20)
    finally:
        first.process.send_signal(signal.SIGCONT)
    assert using(relay) == name(second)
    assert any("handshake" in event.get("problem", "") for event in relay.events)


def test_new_upstreams_are_moved_to_without_loss(bench: Bench) -> None:
    first, second = bench.upstream(), bench.upstream()
    relay = bench.relay(first)
    wait_until(bench.answered, "a reply")
    bench.write(second)
    relay.process.send_signal(signal.SIGHUP)
    lost = 0
    while using(relay) != name(second):
        lost += not bench.answered(os.urandom(8), 5)
    assert lost == 0
    first.process.kill()
    assert all(bench.answered(os.urandom(8), 5) for _ in range(20))


def test_a_list_that_is_wrong_changes_nothing(bench: Bench) -> None:
    first = bench.upstream()
    relay = bench.relay(first)
    wait_until(bench.answered, "a reply")
    bench.write("tcp://no port")
    relay.process.send_signal(signal.SIGHUP)
    wait_until(lambda: any(e["event"] == "relay.reload_failed" for e in relay.events), "the log")
    (failed,) = [event for event in relay.events if event["event"] == "relay.reload_failed"]
    assert "RELAY_TO" in failed["problems"][0]
    assert bench.answered()
    assert using(relay) == name(first)


def test_while_no_upstream_can_be_reached_the_newest_datagrams_wait(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    bench.relay(f"tcp://127.0.0.1:{port}")
    for number in range(200):
        bench.source.send(b"%03d" % number + bytes(1000))
    host, target = bench.target
    upstream = OUR_KIND.running("tcp2udp", f"{host}:{target}", bench.folder, listen=("127.0.0.1", port))
    bench.stack.enter_context(upstream)
    bench.source.settimeout(PATIENCE)
    first = int(bench.source.recv(65535)[:3])
    assert first > 100
    assert [int(bench.source.recv(65535)[:3]) for _ in range(first + 1, 200)] == list(range(first + 1, 200))


def test_more_sources_than_there_is_room_for_are_turned_away(bench: Bench, tmp_path: Path) -> None:
    upstream = bench.upstream()
    limited = Kind("limited", environment={"RELAY_MAX_PER_SOURCE": "5"})
    with limited.running("udp2tcp", upstream.url, tmp_path) as relay, ExitStack() as stack:
        assert relay.address is not None
        sources = [stack.enter_context(udp_socket()) for _ in range(50)]
        for made in sources:
            made.connect(relay.address)
            made.send(b"ping")
        for made in sources[:5]:
            assert made.recv(10) == b"ping"
        wait_until(lambda: any(e["event"] == "relay.limit" for e in relay.events), "the log")
        assert sum(event["event"] == "relay.limit" for event in relay.events) == 1
        sources[0].send(b"still")
        assert sources[0].recv(10) == b"still"
        assert relay.process.poll() is None


def test_a_loop_of_relays_is_bounded(bench: Bench, tmp_path: Path) -> None:
    """A tcp2udp forwards to the udp2tcp that leads to it. Each round adds one source."""
    with udp_socket() as placeholder:
        port = placeholder.getsockname()[1]
    bounds = {"RELAY_MAX_PER_SOURCE": "20"}
    kind = Kind("looped", environment=bounds)
    with (
        kind.running("tcp2udp", f"127.0.0.1:{port}", tmp_path) as far,
        kind.running("udp2tcp", far.url, tmp_path, listen=("127.0.0.1", port)) as near,
    ):
        bench.source.connect(("127.0.0.1", port))
        bench.source.send(b"round and round")
        wait_until(lambda: any(e["event"] == "relay.limit" for e in near.events), "the limit is reached")
        assert near.process.poll() is None
        assert far.process.poll() is None
