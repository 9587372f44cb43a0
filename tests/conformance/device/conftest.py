"""One subject for each backend: a started link, its device, and an independent view of it.

For the real backends, that view is ``wg show <interface> dump``. They are in a network namespace of
their own, which the test's thread has entered.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from tests import netns_support
from tests.memory_device import MemoryLink

from dstack_vpn.adapters.device.link import KernelLink, UserspaceLink
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.core.model import DeviceState, PeerState, SocketAddress
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.ports import Device

NAME = "wg0"
AnyLink = MemoryLink | UserspaceLink | KernelLink


@dataclass
class Subject:
    link: AnyLink
    device: Device
    namespace: netns_support.Namespace | None

    async def told(self) -> DeviceState:
        """Return the device's state as ``wg`` reports it; an in-memory device's own state."""
        if self.namespace is None:
            return await self.device.read()
        return parse_dump(self.namespace.run("wg", "show", NAME, "dump"))


def parse_dump(text: str) -> DeviceState:
    first, *rows = (line.split("\t") for line in text.splitlines())
    peers = {
        PublicKey.parse(key): PeerState(
            PublicKey.parse(key),
            frozenset(() if ips == "(none)" else ips.split(",")),
            None if endpoint == "(none)" else _endpoint(endpoint),
            0 if keepalive == "off" else int(keepalive),
            float(handshake),
            int(received),
            int(sent),
        )
        for key, _, endpoint, ips, handshake, received, sent, keepalive in rows
    }
    return DeviceState(None if first[1] == "(none)" else PublicKey.parse(first[1]), int(first[2]), 0, peers)


def _endpoint(text: str) -> SocketAddress:
    host, _, port = text.rpartition(":")
    return SocketAddress(host.strip("[]"), int(port))


def kernel_has_wireguard() -> bool:
    return asyncio.run(find_family("wireguard")) is not None


def new_link(backend: str) -> AnyLink:
    match backend:
        case "memory":
            return MemoryLink(NAME)
        case "kernel":
            return KernelLink(netns_support.claim(NAME))
    program = netns_support.wireguard_go()
    assert program is not None
    return UserspaceLink(netns_support.claim(NAME), program)


@pytest.fixture(
    params=[
        "memory",
        pytest.param("userspace", marks=pytest.mark.netns),
        pytest.param("kernel", marks=pytest.mark.netns),
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name != "memory" and (not netns_support.is_usable() or shutil.which("wg") is None):
        pytest.skip("needs root, network namespaces, TUN and wg")
    if name == "userspace" and netns_support.wireguard_go() is None:
        pytest.skip("needs wireguard-go")
    if name == "kernel" and not kernel_has_wireguard():
        pytest.skip("this kernel has no WireGuard: make test-kernel brings one")
    return name


@pytest.fixture
def namespace(backend: str) -> Iterator[netns_support.Namespace | None]:
    if backend == "memory":
        yield None
        return
    with netns_support.Namespace() as namespace, namespace.entered():
        yield namespace


@pytest.fixture
async def subject(backend: str, namespace: netns_support.Namespace | None) -> AsyncIterator[Subject]:
    link = new_link(backend)
    device = await link.start()
    yield Subject(link, device, namespace)
    await link.stop(keep=False)
