import pytest
from tests.memory_device import MemoryLink

from dstack_vpn.adapters.device.deferred import DeferredLink
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import LinkSettings

SETTINGS = LinkSettings("wg0", 1420, frozenset(), frozenset())


async def test_a_link_that_can_not_be_chosen_yet_is_chosen_later() -> None:
    missing, memory = True, MemoryLink()

    async def choose() -> MemoryLink:
        if missing:
            raise DeviceError("/dev/net/tun is missing")
        return memory

    link = DeferredLink(choose)
    with pytest.raises(DeviceError, match="tun is missing"):
        await link.start()
    assert not await link.is_up()
    with pytest.raises(DeviceError, match="not been set up"):
        await link.configure(SETTINGS)
    with pytest.raises(DeviceError, match="not been set up"):
        await link.gone()
    await link.stop(keep=False)
    missing = False
    assert await link.start() is memory.device
    await link.configure(SETTINGS)
    assert await link.is_up()
    assert memory.settings == SETTINGS
    await link.stop(keep=True)
    assert memory.kept is True
