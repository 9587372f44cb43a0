"""The tunnel survives the death of wireguard-go and of the daemon."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import netns_support
from tests.netns_ping import Ping
from tests.netns_support import Namespace

from dstack_vpn.adapters.device import process
from dstack_vpn.adapters.device.link import UserspaceLink
from dstack_vpn.core.model import SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import LinkSettings

PROGRAM = netns_support.wireguard_go() or ""
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not PROGRAM, reason="needs wireguard-go"),
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root, namespaces and TUN"),
]
SECRETS = (PrivateKey(b"\1" * 32), PrivateKey(b"\2" * 32))


def settings(number: int) -> LinkSettings:
    return LinkSettings("wg0", 1380, frozenset({f"10.77.0.{number}/32"}), frozenset({"10.77.0.0/16"}))


def peer(number: int) -> SetPeer:
    endpoint = SocketAddress(f"10.9.0.{number}", 51820)
    key = derive(SECRETS[number - 1])
    return SetPeer(key, endpoint, 0, frozenset({f"10.77.0.{number}/32"}))


async def bring_up(link: UserspaceLink, number: int) -> None:
    device = await link.start()
    await device.configure(SECRETS[number - 1], 51820)
    await device.apply([peer(3 - number)])
    await link.configure(settings(number))


@dataclass
class Tunnel:
    """Two namespaces and a tunnel between them; the test's thread and link are in the left one."""

    left: Namespace
    right: Namespace
    link: UserspaceLink

    def ping(self) -> Ping:
        return Ping(self.left, self.right, "10.77.0.2")


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace("l") as left, Namespace("r") as right:
        netns_support.connect(left, right, ("10.9.0.1/24", "10.9.0.2/24"))
        yield left, right


@pytest.fixture
async def tunnel(ends: tuple[Namespace, Namespace]) -> AsyncIterator[Tunnel]:
    left, right = ends
    with right.entered():
        far = UserspaceLink(netns_support.claim(), PROGRAM)
        await bring_up(far, 2)
        await far.stop(keep=True)
    with left.entered():
        tunnel = Tunnel(left, right, UserspaceLink(netns_support.claim(), PROGRAM))
        await bring_up(tunnel.link, 1)
        yield tunnel
        # The test may have replaced the link.
        await tunnel.link.stop(keep=False)


def pid_in(namespace: Namespace) -> int:
    """Return the process id of the namespace's wireguard-go."""
    for pid in netns_support.run("ip", "netns", "pids", namespace.name).split():
        # The process that lists the namespace was in it too, and has ended by now.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "wireguard-go":
                return int(pid)
    raise AssertionError("no wireguard-go")


def routes_of(namespace: Namespace) -> str:
    """Return the namespace's routes without the state of their links.

    A TUN interface that no program holds has no carrier. The kernel marks its routes with that up
    to a second later, and removes the mark as late.
    """
    return namespace.run("ip", "route").replace(" linkdown", "")


async def kill_and_wait(link: UserspaceLink, namespace: Namespace) -> None:
    # The far end takes a handshake within 20 ms of the last one for a replay, and the next attempt
    # is 5 s later.
    await asyncio.sleep(0.1)
    os.kill(pid_in(namespace), signal.SIGKILL)
    async with asyncio.timeout(10):
        await link.gone()


async def test_an_adoption_loses_no_packet(tunnel: Tunnel) -> None:
    with tunnel.ping() as ping:
        for _ in range(10):
            await tunnel.link.stop(keep=True)
            tunnel.link = UserspaceLink(netns_support.claim(), PROGRAM)
            await bring_up(tunnel.link, 1)
            # Slow enough that packets meet each state.
            await asyncio.sleep(0.05)
    assert ping.report is not None
    assert ping.report.sent > 200
    assert ping.report.lost == 0


async def test_a_killed_wireguard_go_is_back_with_interface_addresses_and_routes(tunnel: Tunnel) -> None:
    index = tunnel.left.run("cat", "/proc/net/dev_snmp6/wg0").splitlines()[0]
    routes = tunnel.left.run("ip", "route")
    with tunnel.ping() as ping:
        await kill_and_wait(tunnel.link, tunnel.left)
        assert not await tunnel.link.is_up()
        assert tunnel.left.run("ip", "route") == routes
        device = await tunnel.link.start()
        assert (await device.read()).peers == {}
        assert "mtu 1380" in tunnel.left.run("ip", "link", "show", "wg0")
        await device.configure(SECRETS[0], 51820)
        await device.apply([peer(2)])
        await asyncio.sleep(0.2)
    assert tunnel.left.run("cat", "/proc/net/dev_snmp6/wg0").splitlines()[0] == index
    assert tunnel.left.run("ip", "route") == routes
    assert await tunnel.link.is_up()
    assert ping.report is not None
    assert ping.report.longest_gap < 2.0
    assert ping.report.sent - ping.report.lost > 10


async def test_an_adopted_one_may_die_too(tunnel: Tunnel) -> None:
    await tunnel.link.stop(keep=True)
    tunnel.link = UserspaceLink(netns_support.claim(), PROGRAM)
    await tunnel.link.start()
    routes = routes_of(tunnel.left)
    await kill_and_wait(tunnel.link, tunnel.left)
    assert routes_of(tunnel.left) == routes
    await bring_up(tunnel.link, 1)
    assert routes_of(tunnel.left) == routes
    with tunnel.ping():
        pass


async def test_both_may_die(tunnel: Tunnel) -> None:
    await tunnel.link.stop(keep=True)
    os.kill(pid_in(tunnel.left), signal.SIGKILL)
    tunnel.link = UserspaceLink(netns_support.claim(), PROGRAM)
    await bring_up(tunnel.link, 1)
    with tunnel.ping():
        pass


async def test_it_is_stopped_whoever_started_it(tunnel: Tunnel) -> None:
    await tunnel.link.stop(keep=True)
    pid = pid_in(tunnel.left)
    tunnel.link = UserspaceLink(netns_support.claim(), PROGRAM)
    await tunnel.link.start()
    await tunnel.link.stop(keep=False)
    # The process is a child of this one, and the first link has released it.
    assert os.waitpid(pid, 0)[0] == pid  # noqa: ASYNC222  # it has ended already


async def test_a_program_that_dies_at_once_is_an_error(ends: tuple[Namespace, Namespace]) -> None:
    with ends[0].entered():
        link = UserspaceLink(netns_support.claim(), "/bin/true")
        with pytest.raises(DeviceError, match="died while it started"):
            await link.start()
        await link.stop(keep=False)
        assert "wg0" not in ends[0].run("ip", "link")


async def test_an_interface_in_use_is_an_error(tunnel: Tunnel) -> None:
    tunnel.left.run("mv", str(process.socket_path("wg0")), "/run/wireguard/away")
    other = UserspaceLink(netns_support.claim(), PROGRAM)
    with pytest.raises(DeviceError, match="another program uses the interface"):
        await other.start()
    tunnel.left.run("mv", "/run/wireguard/away", str(process.socket_path("wg0")))
    await other.stop(keep=True)
