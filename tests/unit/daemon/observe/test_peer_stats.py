"""The rate of device readings for observers, and the sum of peers' traffic over readings."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from dstack_vpn.core.model import DeviceState, PeerState
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.observe.peer_stats import READING, READINGS, PeerStatsCache

A, B = PublicKey(b"\1" * 32), PublicKey(b"\2" * 32)


def state(**bytes_: tuple[int, int]) -> DeviceState:
    keys = {"a": A, "b": B}
    peers = {
        keys[name]: PeerState(keys[name], frozenset(), rx_bytes=rx, tx_bytes=tx)
        for name, (rx, tx) in bytes_.items()
    }
    return DeviceState(None, 1, peers=peers)


@dataclass
class Device:
    """The part of a tunnel that the cache reads."""

    answer: DeviceState | None
    at: float = 10.0
    cost: float = 0.0
    reads: int = 0

    async def read(self) -> DeviceState | None:
        self.reads += 1
        self.at += self.cost
        return self.answer

    @property
    def clock(self) -> SimpleNamespace:
        return SimpleNamespace(monotonic=lambda: self.at, now=lambda: self.at)


async def test_it_is_read_once_a_second_however_many_look() -> None:
    device = Device(state(a=(1, 1)))
    peer_stats = PeerStatsCache(cast("Tunnel", device))
    for _ in range(5):
        assert A in await peer_stats.look()
    assert device.reads == 1
    device.at += READING.least
    await peer_stats.look()
    assert device.reads == 2


async def test_a_device_that_is_slow_to_read_is_read_less_often() -> None:
    device = Device(state(a=(1, 1)), cost=0.03)
    peer_stats = PeerStatsCache(cast("Tunnel", device))
    await peer_stats.look()
    device.at += READING.least
    await peer_stats.look()
    assert device.reads == 1


async def test_a_reading_that_waits_for_the_processor_does_not_delay_the_next() -> None:
    device = Device(state(a=(1, 1)), cost=0.001)
    peer_stats = PeerStatsCache(cast("Tunnel", device))
    await peer_stats.look()
    device.cost = 0.03
    for reads in range(1, READINGS):
        device.at += READING.least
        await peer_stats.look()
        assert device.reads == reads + 1
    device.at += READING.least
    await peer_stats.look()
    device.at += READING.least
    await peer_stats.look()
    assert device.reads == READINGS + 1, "all of the last readings were slow"


async def test_without_a_device_the_last_reading_stands() -> None:
    device = Device(state(a=(1, 1)))
    peer_stats = PeerStatsCache(cast("Tunnel", device))
    await peer_stats.look()
    device.answer, device.at = None, device.at + 60
    assert A in await peer_stats.look()


async def test_sums_only_grow() -> None:
    peer_stats = PeerStatsCache(cast("Tunnel", Device(None)))
    readings = (
        state(a=(100, 10), b=(5, 5)),
        state(a=(150, 20)),  # b was removed
        state(a=(30, 1), b=(7, 7)),  # both counters restarted
    )
    for reading in readings:
        peer_stats.observe(reading)
        await peer_stats.look()
        await peer_stats.look()
    assert (peer_stats.received, peer_stats.sent) == (100 + 5 + 50 + 30 + 7, 10 + 5 + 10 + 1 + 7)
