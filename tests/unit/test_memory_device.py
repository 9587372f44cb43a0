import asyncio

import pytest
from tests.memory_device import MemoryDevice, MemoryLink

from dstack_vpn.core.model import SetPeer
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import Device, Link, LinkSettings

ONE, TWO, THREE = (PublicKey(bytes([n]) * 32) for n in (1, 2, 3))
SETTINGS = LinkSettings("wg0", 1420, frozenset({"10.77.0.2/32"}), frozenset({"10.77.0.0/16"}))


async def test_a_change_fails_on_demand_and_leaves_the_earlier_ones() -> None:
    device: Device = (memory := MemoryDevice())
    memory.fail_change(2)
    with pytest.raises(DeviceError):
        await device.apply([SetPeer(ONE), SetPeer(TWO), SetPeer(THREE)])
    assert set((await device.read()).peers) == {ONE}
    await device.apply([SetPeer(TWO)])
    assert memory.applied == [SetPeer(ONE), SetPeer(TWO)]


async def test_a_vanished_device_is_gone_until_the_link_starts_anew() -> None:
    link: Link = (memory := MemoryLink())
    device = await memory.start()
    await link.configure(SETTINGS)
    assert await link.is_up()
    waiting = asyncio.ensure_future(memory.gone())  # noqa: TID251  # the test awaits it below
    device.vanish()
    async with asyncio.timeout(1):
        await waiting
    assert not await link.is_up()
    with pytest.raises(DeviceGoneError):
        await device.read()
    with pytest.raises(DeviceGoneError):
        await link.configure(SETTINGS)
    assert await memory.start() is not device
    assert memory.starts == 2


async def test_stopping_with_keep_leaves_the_device() -> None:
    link = MemoryLink()
    device = await link.start()
    await link.configure(SETTINGS)
    await link.stop(keep=True)
    assert (await link.start(), link.settings) == (device, SETTINGS)
    await link.stop(keep=False)
    assert (link.settings, link.kept) == (None, False)
    assert await link.start() is not device


async def test_starts_fail_on_demand() -> None:
    link = MemoryLink()
    link.fail_starts = 1
    with pytest.raises(DeviceError):
        await link.start()
    assert await link.start() is link.device
