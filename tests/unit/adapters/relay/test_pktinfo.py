"""Other processes cannot bind our port while many sources use it."""

import asyncio
import os
import socket
import time

import pytest
from tests.unit.adapters.relay.conftest import running

from dstack_vpn.adapters.destination import receive_with_destination
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.pktinfo import bind_beside, listen_datagrams
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl
from dstack_vpn.errors import RelayError

ANY = SocketAddress("127.0.0.1", 0)
NOBODY = 65534
THIEF = 0.5
"""Seconds for which another user's process tries to bind our port."""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_second_relay_on_a_port_in_use_is_refused(host: str) -> None:
    with listen_datagrams(SocketAddress(host, 0)) as first:
        taken = SocketAddress("127.0.0.1", first.getsockname()[1])
        with pytest.raises(RelayError, match="Address already in use"):
            listen_datagrams(taken)


async def test_a_second_relay_on_a_tcp_port_in_use_is_refused() -> None:
    first = Tcp2Udp(Engine(), Listen.parse("tcp://127.0.0.1:0"), ("127.0.0.1", 9))
    async with running(first):
        with pytest.raises(RelayError, match="Address already in use"):
            Tcp2Udp(Engine(), Listen.parse(f"tcp://127.0.0.1:{first.address.port}"), ("127.0.0.1", 9))


async def test_each_source_has_its_own_socket_beside_the_listening_one() -> None:
    relay = Udp2Tcp(Engine(), ANY, [RelayUrl.parse("tcp://127.0.0.1:9")])
    sources = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(5)]
    async with running(relay), asyncio.timeout(10):
        for source in sources:
            with source:
                source.connect(relay.address)
                source.send(b"hello")
                known = len(relay.flows)
                while len(relay.flows) == known:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.01)
    assert relay.counters.accepted == len(sources)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process is needed")
def test_another_users_process_can_not_take_the_port_even_while_sources_come() -> None:
    with listen_datagrams(ANY) as listening:
        at = SocketAddress(*listening.getsockname())
        thief = _thief(at.port)
        flows: list[socket.socket] = []
        sources: list[socket.socket] = []
        end = time.monotonic() + THIEF
        while time.monotonic() < end and len(flows) < 400:
            source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sources.append(source)
            source.connect(at)
            source.send(b"first")
            listening.setblocking(True)
            listening.settimeout(10)
            data, who, destination = receive_with_destination(listening)
            assert data == b"first"
            flows.append(bind_beside(listening, SocketAddress(destination, at.port), who))
            flows[-1].settimeout(10)
            source.send(b"second")
            assert flows[-1].recv(100) == b"second"
        _, status = os.waitpid(thief, 0)
        for each in (*flows, *sources):
            each.close()
    assert os.waitstatus_to_exitcode(status) == 0, "the thief got the port"


def _thief(port: int) -> int:
    """Start another user's process that tries to bind the port, and return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setuid(NOBODY)
        end = time.monotonic() + THIEF
        while time.monotonic() < end:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stolen:
                stolen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                stolen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                try:
                    stolen.bind(("127.0.0.1", port))
                except OSError:
                    continue
                break
        else:
            code = 0
    finally:
        os._exit(code)
