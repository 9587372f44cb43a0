"""Tests of a real kernel's WireGuard, for ``make test-kernel``; skipped without WireGuard."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests import netns_support

from dstack_vpn.adapters.device import kernel as kernel_module
from dstack_vpn.adapters.device.backend import choose_backend
from dstack_vpn.adapters.device.kernel import KernelDevice
from dstack_vpn.adapters.device.link import KernelLink
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.core.model import RemovePeer, SetPeer
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import DeviceError, DeviceGoneError

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
    pytest.mark.skipif(
        asyncio.run(find_family("wireguard")) is None,
        reason="this kernel has no WireGuard: make test-kernel brings one",
    ),
]


@pytest.fixture
def namespace() -> Iterator[netns_support.Namespace]:
    with netns_support.Namespace() as namespace, namespace.entered():
        yield namespace


@pytest.fixture
async def device(namespace: netns_support.Namespace) -> AsyncIterator[KernelDevice]:
    link = KernelLink(netns_support.claim())
    yield await link.start()
    await link.stop(keep=False)


def numbered(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


async def test_a_read_while_others_change_the_device_is_whole(
    device: KernelDevice, namespace: netns_support.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stay = [
        SetPeer(numbered(n), allowed_ips=frozenset({f"10.77.{n >> 8}.{n & 255}/32"})) for n in range(1, 401)
    ]
    await device.apply(stay)
    monkeypatch.setattr(kernel_module, "DUMP_ATTEMPTS", 1000)
    torn = 0
    other = KernelDevice("wg0", await find_family("wireguard") or 0)

    async def change() -> None:
        for n in range(2001, 2061):
            await other.apply([SetPeer(numbered(n))])
            await other.apply([RemovePeer(numbered(n))])

    dump = device._dump

    async def counted() -> object:
        nonlocal torn
        state = await dump()
        torn += state is None
        return state

    monkeypatch.setattr(device, "_dump", counted)
    async with asyncio.TaskGroup() as group:
        changing = group.create_task(change())
        while not changing.done():
            state = await device.read()
            assert {each.public_key for each in stay} <= set(state.peers)
    other.close()
    # Otherwise no dump was interrupted, and the retry was not tested.
    assert torn > 0


async def test_a_deleted_interface_is_gone(device: KernelDevice, namespace: netns_support.Namespace) -> None:
    namespace.run("ip", "link", "delete", "wg0")
    with pytest.raises(DeviceGoneError, match="wg0 does not exist"):
        await device.read()
    with pytest.raises(DeviceGoneError):
        await device.apply([SetPeer(numbered(1))])


async def test_an_interface_of_another_kind_has_no_peers(namespace: netns_support.Namespace) -> None:
    other = KernelDevice("lo", await find_family("wireguard") or 0)
    with pytest.raises(DeviceError, match="not a WireGuard device"):
        await other.read()
    other.close()


async def test_the_kernel_is_taken_where_it_can() -> None:
    assert await choose_backend("auto", "wg0", "no-such-program") == "kernel"
    assert await choose_backend("kernel", "wg0", "no-such-program") == "kernel"
    with pytest.raises(DeviceError, match="not installed"):
        await choose_backend("userspace", "wg0", "no-such-program")
