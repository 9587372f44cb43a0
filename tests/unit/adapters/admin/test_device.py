"""Reads of a device, which neither create nor change an interface."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from tests import netns_support

from dstack_vpn.adapters.admin.device import look
from dstack_vpn.adapters.device.link import UserspaceLink
from dstack_vpn.core.model import SetPeer
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import DeviceError

NAME = "wg0"
PEER = PublicKey(b"\x05" * 32)


async def test_what_is_not_there_stays_so() -> None:
    before = socket.if_nameindex()
    assert await look("dvpn-none") is None
    assert socket.if_nameindex() == before


async def test_what_is_no_wireguard_is_refused() -> None:
    with pytest.raises(DeviceError, match="lo is not a WireGuard interface"):
        await look("lo")


@pytest.fixture
def namespace() -> Iterator[netns_support.Namespace]:
    if not netns_support.is_usable() or netns_support.wireguard_go() is None:
        pytest.skip("needs root, network namespaces, TUN and wireguard-go")
    with netns_support.Namespace() as namespace, namespace.entered():
        yield namespace


@pytest.mark.netns
async def test_a_running_device_is_read_and_left_alone(namespace: netns_support.Namespace) -> None:
    program = netns_support.wireguard_go()
    assert program is not None
    link = UserspaceLink(netns_support.claim(NAME), program)
    device = await link.start()
    try:
        await device.apply([SetPeer(PEER, allowed_ips=frozenset({"10.77.0.5/32"}))])
        namespace.run("ip", "link", "set", NAME, "down")
        async with asyncio.timeout(10):
            while await link.is_up():  # noqa: ASYNC110  # the state changes in another process
                await asyncio.sleep(0.01)
        state = await look(NAME)
        assert state is not None
        assert state == await device.read()
        assert state.peers[PEER].allowed_ips == {"10.77.0.5/32"}
        assert not await link.is_up()
    finally:
        await link.stop(keep=False)
