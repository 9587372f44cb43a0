"""The rules, the routing table and the kill switch of an exit, and their effect on packets.

inside ──── host ──── outside
             wg0      (without peers: what enters the tunnel is gone)
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from tests import netns_support
from tests.netns.capture import Capture, Seen
from tests.netns_support import Namespace, claim, connect, wait_until

from dstack_vpn.adapters.device.link import KernelLink, UserspaceLink
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.core.model import SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import ExitGuard, LinkSettings

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
    pytest.mark.timeout(60),
]
MARK: Final = 0x7601
BOTH: Final = frozenset({"10.77.0.0/16", "fd77::/48"})
SETTINGS: Final = LinkSettings("wg0", 1380, frozenset({"10.77.0.2/32", "fd77::2/128"}), BOTH, exit_mark=MARK)
GUARD: Final = ExitGuard("wg0", BOTH, MARK)
FAR: Final = ("198.51.100.1", "2001:db8:9::1")
"""Addresses beyond the outside namespace's network."""
HOST: Final = ("192.0.2.1", "2001:db8:1::1")
OUTSIDE: Final = ("192.0.2.2", "2001:db8:1::2")
LAN: Final = ("172.16.5.1", "172.16.5.2")
INSIDE: Final = ("172.18.0.2", "fd18::2")
PORT: Final = 7000


@dataclass
class Scene:
    host: Namespace
    outside: Namespace
    inside: Namespace
    up: str
    """The uplink's interface of the host..."""
    uplink: str
    """...and its outer end."""
    link: KernelLink | UserspaceLink
    firewall: NftFirewall = field(default_factory=NftFirewall)

    def captured(self) -> Capture:
        return Capture(self.outside, self.uplink)

    def send(self, to: str, *, mark: int = 0, device: str = "", by: Namespace | None = None) -> str:
        """Send a datagram, by a device if one is given; returns the error, if any."""
        with (by or self.host).entered(), closing(_socket(to, socket.SOCK_DGRAM)) as udp:
            if mark:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if device:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            udp.setblocking(False)
            try:
                udp.sendto(b"x", (to, PORT))
            except OSError as error:
                return error.strerror or "failed"
        return ""

    def answers(self, address: str, *, by: Namespace, on: Namespace, at: str | None = None) -> bool:
        """Return whether a TCP server gets a connection, and the client its reply."""
        with on.entered(), closing(_socket(address, socket.SOCK_STREAM)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((at or address, PORT))
            server.listen()
            with by.entered(), closing(_socket(address, socket.SOCK_STREAM)) as client:
                client.settimeout(0.5)
                try:
                    client.connect((address, PORT))
                    accepted, _ = server.accept()
                    with accepted:
                        accepted.sendall(b"hello")
                        return client.recv(9) == b"hello"
                except OSError:
                    return False


def _socket(address: str, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


def has_kernel() -> bool:
    return asyncio.run(find_family("wireguard")) is not None


@pytest.fixture(params=["userspace", "kernel"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "userspace" and netns_support.wireguard_go() is None:
        pytest.skip("needs wireguard-go")
    if name == "kernel" and not has_kernel():
        pytest.skip("this kernel has no WireGuard: make test-kernel brings one")
    return name


@pytest.fixture
def namespaces() -> Iterator[tuple[Namespace, Namespace, Namespace, str, str]]:
    with Namespace("h") as host, Namespace("o") as outside, Namespace("i") as inside:
        for namespace in (host, outside, inside):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        up, down = connect(
            host,
            outside,
            *((f"{HOST[0]}/24", f"{OUTSIDE[0]}/24"), (f"{HOST[1]}/64", f"{OUTSIDE[1]}/64")),
            (f"{LAN[0]}/24", f"{LAN[1]}/24"),
        )
        connect(host, inside, ("172.18.0.1/24", f"{INSIDE[0]}/24"), ("fd18::1/64", f"{INSIDE[1]}/64"))
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        host.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1", "net.ipv4.conf.all.rp_filter=1")
        for namespace, ways in ((host, OUTSIDE), (inside, ("172.18.0.1", "fd18::1"))):
            for way in ways:
                namespace.run("ip", "route", "add", "::/0" if ":" in way else "default", "via", way)
        outside.run("ip", "route", "add", "172.18.0.0/24", "via", HOST[0])
        outside.run("ip", "route", "add", "fd18::/64", "via", HOST[1])
        for address in FAR:
            outside.run("ip", "address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
        yield host, outside, inside, up, down


@pytest.fixture
async def scene(
    backend: str, namespaces: tuple[Namespace, Namespace, Namespace, str, str]
) -> AsyncIterator[Scene]:
    host, outside, inside, up, uplink = namespaces
    with host.entered():
        program = netns_support.wireguard_go() or ""
        link = KernelLink(claim()) if backend == "kernel" else UserspaceLink(claim(), program)
        scene = Scene(host, outside, inside, up, uplink, link)
        device = await link.start()
        await device.configure(PrivateKey(bytes(range(32))), 51820, MARK)
        # A peer whose endpoint is outside: WireGuard's own packets.
        peer = SetPeer(
            PublicKey(b"\1" * 32), SocketAddress(OUTSIDE[0], 51820), 0, frozenset({"0.0.0.0/0", "::/0"})
        )
        await device.apply([peer])
        await scene.firewall.guard(GUARD)
        await link.configure(SETTINGS)
        yield scene
        await link.stop(keep=False)
        await scene.firewall.unguard("wg0")


def control(scene: Scene, capture: Capture) -> list[Seen]:
    """Return what left the host and is not WireGuard's."""
    sources = " ".join((*HOST, *INSIDE, LAN[0], "10.77.0.2", "fd77::2"))
    return [each for each in capture.others(by=sources) if each.port != 51820]


async def test_only_marked_packets_leave_beside_the_exit(scene: Scene) -> None:
    with scene.captured() as capture:
        for address in FAR:
            assert scene.send(address) == "", "it goes into the tunnel"
            scene.send(address, by=scene.inside)
            assert scene.send(address, device=scene.up), "past the routing rules"
        for address in (LAN[1], *OUTSIDE, "ff02::fb"):
            assert scene.send(address, device=scene.up if address.startswith("ff") else "")
            scene.send(address, by=scene.inside)
        for address in FAR:
            assert scene.send(address, mark=MARK) == ""
        wait_until(lambda: any(each.destination == FAR[1] for each in capture.seen), "the marked packets")
        wait_until(lambda: any(each.port == 51820 for each in capture.seen), "WireGuard's own packets")
    assert {each.destination for each in control(scene, capture)} == set(FAR)
    assert len(control(scene, capture)) == 2

    # Its own tunnel gone, as after a crash of everything.
    scene.host.run("ip", "link", "delete", "wg0")
    with scene.captured() as capture:
        for address in (*FAR, LAN[1], *OUTSIDE):
            assert scene.send(address)
            scene.send(address, by=scene.inside)
        assert scene.send(FAR[0], mark=MARK) == ""
        wait_until(lambda: any(each.destination == FAR[0] for each in capture.seen), "the marked packet")
    assert len(control(scene, capture)) == 1


async def test_connections_from_outside_get_replies_and_none_goes_out(scene: Scene) -> None:
    host, outside, inside = scene.host, scene.outside, scene.inside
    for address in (*HOST, LAN[0]):
        assert scene.answers(address, by=outside, on=host)
    # A published port, as Docker makes one.
    for family, at, to in (("ip", HOST[0], INSIDE[0]), ("ip6", HOST[1], f"[{INSIDE[1]}]")):
        rule = f"{family} daddr {at} tcp dport {PORT} dnat to {to}"
        hook = "type nat hook prerouting priority dstnat;"
        host.run("nft", f"add table {family} published {{ chain in {{ {hook} {rule}; }}; }}")
    for address, target in zip(HOST, INSIDE, strict=True):
        assert scene.answers(address, by=outside, on=inside, at=target)
    for address in (*FAR, *OUTSIDE, LAN[1]):
        for client in (host, inside):
            assert not scene.answers(address, by=client, on=outside)
    for address in ("172.18.0.1", "fd18::1"):
        assert scene.answers(address, by=inside, on=host)


async def test_local_networks_are_reached_if_that_is_allowed(scene: Scene) -> None:
    await scene.firewall.guard(replace(GUARD, allow_lan=True))
    for client in (scene.host, scene.inside):
        assert scene.answers(LAN[1], by=client, on=scene.outside)
        for address in (*FAR, *OUTSIDE):
            assert not scene.answers(address, by=client, on=scene.outside)
    for address in INSIDE:
        assert scene.answers(address, by=scene.host, on=scene.inside)


async def test_a_version_that_the_exit_does_not_have_is_rejected_at_once(scene: Scene) -> None:
    within = BOTH | {"2001:db8:77::/48"}
    for versions, (has, lacks) in (({4}, FAR), ({6}, FAR[::-1])):
        await scene.firewall.guard(replace(GUARD, versions=frozenset(versions), within=within))
        assert scene.send(has) == ""
        assert scene.send(lacks)
        assert scene.send("10.77.9.9") == scene.send("fd77::9") == ""
    await scene.firewall.guard(replace(GUARD, versions=frozenset()))
    assert all(map(scene.send, FAR))
    await scene.firewall.guard(GUARD)
    assert [scene.send(address) for address in FAR] == ["", ""]


async def test_the_guard_is_kept_edited_taken_over_and_removed(scene: Scene) -> None:
    firewall, nft = scene.firewall, scene.host.run
    assert await firewall.is_guarded("wg0")
    nft("nft", "add rule inet dstack_exit_wg0 exit_output accept")
    assert not await firewall.is_guarded("wg0")
    await firewall.guard(GUARD)
    assert await firewall.is_guarded("wg0")
    assert scene.send(OUTSIDE[0])
    nft("nft", "flush", "ruleset")
    assert not await firewall.is_guarded("wg0")
    await firewall.guard(GUARD)
    # Another process takes it over, and removes it.
    other = NftFirewall()
    await other.guard(replace(GUARD, allow_lan=True))
    await NftFirewall().unguard("wg0")
    assert "dstack_exit" not in nft("nft", "list", "tables")
    await other.unguard("wg0")
    # A table of another program is left alone.
    nft("nft", "add table inet dstack_exit_wg0 { chain mine { } ; }")
    with pytest.raises(FirewallError, match="not made by dstack-vpn"):
        await NftFirewall().guard(GUARD)
    await NftFirewall().unguard("wg0")
    assert "chain mine" in nft("nft", "list", "ruleset")
    nft("nft", "delete", "table", "inet", "dstack_exit_wg0")
