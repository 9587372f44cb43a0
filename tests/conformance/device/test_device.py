"""The behaviour of every `Device`; `wg` confirms the state of the real ones."""

import asyncio
import errno
import os
import socket

import pytest
from tests.conformance.device.conftest import Subject
from tests.memory_device import MemoryDevice

from dstack_vpn.core.access.plan import NOBODY
from dstack_vpn.core.model import PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError

ONE, TWO, THREE = (PublicKey(bytes([n]) * 32) for n in (1, 2, 3))
V4 = SocketAddress("192.0.2.1", 51820)
V6 = SocketAddress("2001:db8::1", 51820)


def numbered(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def address(number: int) -> str:
    return f"10.77.{number >> 8}.{number & 255}/32"


async def test_a_new_device_is_empty_and_listens(subject: Subject) -> None:
    state = await subject.device.read()
    assert (state.public_key, dict(state.peers)) == (None, {})


async def test_peers_are_added_changed_and_removed(subject: Subject) -> None:
    whole = SetPeer(ONE, V4, 0, frozenset({"10.77.0.1/32", "fd00::1/128"}))
    await subject.device.apply([whole, SetPeer(TWO)])
    expected = {
        ONE: PeerState(ONE, frozenset({"10.77.0.1/32", "fd00::1/128"}), V4),
        TWO: PeerState(TWO, frozenset()),
    }
    assert (await subject.told()).peers == expected
    assert (await subject.device.read()).peers == expected
    await subject.device.apply([SetPeer(ONE, endpoint=V6), RemovePeer(TWO)])
    expected = {ONE: PeerState(ONE, frozenset({"10.77.0.1/32", "fd00::1/128"}), V6)}
    assert (await subject.told()).peers == expected
    assert (await subject.device.read()).peers == expected


async def test_removing_an_unknown_peer_is_no_error(subject: Subject) -> None:
    await subject.device.apply([SetPeer(ONE), RemovePeer(TWO), RemovePeer(TWO)])
    assert set((await subject.told()).peers) == {ONE}


async def test_an_allowed_ip_belongs_to_who_claimed_it_last(subject: Subject) -> None:
    shared = frozenset({"10.77.0.1/32"})
    await subject.device.apply(
        [SetPeer(ONE, allowed_ips=shared | {"fd00::1/128"}), SetPeer(TWO, allowed_ips=shared)]
    )
    told = (await subject.told()).peers
    assert {key: peer.allowed_ips for key, peer in told.items()} == {ONE: {"fd00::1/128"}, TWO: shared}
    await subject.device.apply([RemovePeer(TWO), SetPeer(ONE, allowed_ips=shared)])
    assert (await subject.device.read()).peers[ONE].allowed_ips == shared | {"fd00::1/128"}


async def test_allowed_ips_are_added_or_replaced(subject: Subject) -> None:
    await subject.device.apply([SetPeer(ONE, allowed_ips=frozenset({"10.77.0.1/32"}))])
    await subject.device.apply([SetPeer(ONE, allowed_ips=frozenset({"10.77.0.2/32"}))])
    assert (await subject.told()).peers[ONE].allowed_ips == {"10.77.0.1/32", "10.77.0.2/32"}
    change = SetPeer(ONE, allowed_ips=frozenset({"10.77.0.3/32"}), replace_allowed_ips=True)
    await subject.device.apply([change])
    assert (await subject.told()).peers[ONE].allowed_ips == {"10.77.0.3/32"}
    await subject.device.apply([SetPeer(ONE, allowed_ips=frozenset(), replace_allowed_ips=True)])
    assert (await subject.told()).peers[ONE].allowed_ips == frozenset()


async def test_an_allowed_ip_leaves_with_a_peer_that_claims_it(subject: Subject) -> None:
    one, network = frozenset({"10.77.0.2/32", "fd77::2/128"}), frozenset({"10.9.0.0/24", "fd09::/64"})
    await subject.device.apply([SetPeer(ONE, allowed_ips=one | network)])
    await subject.device.apply([SetPeer(NOBODY, allowed_ips=network), RemovePeer(NOBODY), SetPeer(ONE)])
    peers = (await subject.device.read()).peers
    assert {key: peer.allowed_ips for key, peer in peers.items()} == {ONE: one}


async def test_equal_values_change_nothing(subject: Subject) -> None:
    change = SetPeer(ONE, V4, 0, frozenset({"10.77.0.1/32"}))
    await subject.device.apply([change])
    before = await subject.told()
    await subject.device.apply([change, change, SetPeer(ONE)])
    assert await subject.told() == before


async def test_keepalive_is_switched_on_and_off(subject: Subject) -> None:
    await subject.device.apply([SetPeer(ONE, keepalive=25)])
    assert (await subject.told()).peers[ONE].keepalive == 25
    await subject.device.apply([SetPeer(ONE, keepalive=65535)])
    assert (await subject.device.read()).peers[ONE].keepalive == 65535
    await subject.device.apply([SetPeer(ONE, keepalive=0)])
    assert (await subject.told()).peers[ONE].keepalive == 0


async def test_no_change_is_no_change(subject: Subject) -> None:
    await subject.device.apply([])
    assert (await subject.told()).peers == {}


async def test_key_and_port_are_set(subject: Subject) -> None:
    first, second = PrivateKey(os.urandom(32)), PrivateKey(os.urandom(32))
    await subject.device.configure(first, 51820)
    told = await subject.told()
    assert (told.public_key, told.listen_port) == (derive(first), 51820)
    await subject.device.configure(first, 51820)
    await subject.device.configure(second, 51821)
    state = await subject.device.read()
    assert (state.public_key, state.listen_port) == (derive(second), 51821)
    await subject.device.configure(second, 0)
    assert (await subject.told()).listen_port == 51821


async def test_a_mark_is_set_and_kept(subject: Subject) -> None:
    secret = PrivateKey(os.urandom(32))
    for given, expected in ((None, 0), (11_800, 11_800), (None, 11_800), (2**32 - 1, 2**32 - 1), (0, 0)):
        await subject.device.configure(secret, 0, given)
        assert (await subject.device.read()).fwmark == expected
    with pytest.raises(DeviceError, match="32 bits"):
        await subject.device.configure(secret, 0, 2**32)


async def test_the_devices_own_key_is_no_peer(subject: Subject) -> None:
    secret = PrivateKey(os.urandom(32))
    await subject.device.apply([SetPeer(derive(secret), allowed_ips=frozenset({"10.77.0.1/32"}))])
    await subject.device.configure(secret, 0)
    await subject.device.apply([SetPeer(derive(secret), V4), SetPeer(ONE)])
    assert set((await subject.told()).peers) == {ONE}


def udp(port: int) -> socket.socket:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        taken.bind(("0.0.0.0", port))
    except OSError:
        taken.close()
        raise
    return taken


async def test_a_used_port_is_an_error_and_the_old_one_still_listens(subject: Subject) -> None:
    secret = PrivateKey(os.urandom(32))
    await subject.device.configure(secret, 51820)
    if isinstance(subject.device, MemoryDevice):
        subject.device.used_ports.add(51900)
    with udp(51900), pytest.raises(DeviceError, match="in use"):
        await subject.device.configure(secret, 51900)
    assert (await subject.told()).listen_port == 51820
    assert (await subject.device.read()).listen_port == 51820
    if subject.namespace is not None:
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            udp(51820)
        await subject.device.configure(secret, 51900)
        assert (await subject.told()).listen_port == 51900


@pytest.mark.parametrize(
    "bad",
    [
        SetPeer(TWO, SocketAddress("192.0.2.1\nremove=true", 1)),
        SetPeer(TWO, SocketAddress("vpn.example.org", 1)),
        SetPeer(TWO, SocketAddress("192.0.2.1", 0)),
        SetPeer(TWO, keepalive=-1),
        SetPeer(TWO, allowed_ips=frozenset({"10.77.0.2/33"})),
        SetPeer(TWO, allowed_ips=frozenset({"10.77.0.2/24"})),
        SetPeer(TWO, allowed_ips=frozenset({"10.77.0.2/32\n\nset=1"})),
    ],
    ids=["injection", "name", "port", "keepalive", "length", "host-bits", "prefix-injection"],
)
async def test_a_bad_value_in_mid_batch_changes_nothing(subject: Subject, bad: SetPeer) -> None:
    with pytest.raises(DeviceError):
        await subject.device.apply([SetPeer(ONE), bad, SetPeer(THREE)])
    assert (await subject.told()).peers == {}
    await subject.device.apply([SetPeer(ONE)])
    assert set((await subject.told()).peers) == {ONE}


async def test_a_thousand_peers(subject: Subject) -> None:
    changes = [
        SetPeer(numbered(n), V4, 0, frozenset({address(n), f"fd00::{n:x}/128"})) for n in range(1, 1001)
    ]
    await subject.device.apply(changes)
    state = await subject.device.read()
    assert state.peers == {
        c.public_key: PeerState(c.public_key, c.allowed_ips or frozenset(), V4) for c in changes
    }
    assert state.peers == (await subject.told()).peers
    await subject.device.apply([RemovePeer(change.public_key) for change in changes[:900]])
    assert set((await subject.told()).peers) == {change.public_key for change in changes[900:]}


async def test_a_peer_with_thousands_of_prefixes_is_one_peer(subject: Subject) -> None:
    first = frozenset(f"10.{n >> 8}.{n & 255}.0/24" for n in range(3000))
    second = frozenset(f"fd00:{n:x}::/64" for n in range(1, 2500))
    await subject.device.apply([SetPeer(ONE, V4, 0, first), SetPeer(TWO)])
    await subject.device.apply([SetPeer(ONE, allowed_ips=second, replace_allowed_ips=True)])
    state = await subject.device.read()
    assert state.peers == {ONE: PeerState(ONE, second, V4), TWO: PeerState(TWO, frozenset())}
    assert state.peers == (await subject.told()).peers


async def test_reads_and_changes_at_the_same_time(subject: Subject) -> None:
    stay = [SetPeer(numbered(n), allowed_ips=frozenset({address(n)})) for n in range(1, 201)]
    await subject.device.apply(stay)
    kept = {change.public_key for change in stay}

    async def change() -> None:
        for n in range(1001, 1051):
            await subject.device.apply([SetPeer(numbered(n), allowed_ips=frozenset({address(n)}))])
            await subject.device.apply([RemovePeer(numbered(n))])

    async def read() -> None:
        for _ in range(10):
            state = await subject.device.read()
            assert kept <= set(state.peers)
            assert len(state.peers) <= len(kept) + 1

    async with asyncio.TaskGroup() as group:
        group.create_task(change())
        group.create_task(read())
        group.create_task(read())
    assert set((await subject.told()).peers) == kept


async def test_a_cancelled_change_does_not_confuse_the_next(subject: Subject) -> None:
    batch = [SetPeer(numbered(n), allowed_ips=frozenset({address(n)})) for n in range(1, 701)]
    for steps in range(1, 8):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(subject.device.apply(batch)), group.create_task(subject.device.read())]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
    await subject.device.apply(batch)
    assert set((await subject.device.read()).peers) == {change.public_key for change in batch}
