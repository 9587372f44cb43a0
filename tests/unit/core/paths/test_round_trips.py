"""The measurement of round trips: the pace, the values, and the peers that do not reply."""

import pytest
from tests.scripted import key

from dstack_vpn.core.paths.round_trips import (
    FIRST_WAIT,
    INTERVAL,
    KEPT,
    LOST,
    OFTEN,
    PAUSE,
    SWEEP,
    WAIT,
    WARM,
    RoundTrips,
)
from dstack_vpn.core.wireguard.keys import PublicKey

A, B = key(1), key(2)


class Bench:
    """Peers at given distances, and a clock."""

    def __init__(self, **distances: float) -> None:
        self.trips = RoundTrips()
        self.now = 100.0
        self.distances = {{"a": A, "b": B}[name]: seconds for name, seconds in distances.items()}
        self.received: dict[PublicKey, int] = {}
        self.sent: list[tuple[float, PublicKey]] = []
        self.replies: list[tuple[float, PublicKey, float]] = []

    def run(self, seconds: float, interval: float = INTERVAL, *keys: PublicKey) -> None:
        """Measure these peers, or all, for some time, in steps of 50 ms."""
        wanted = dict.fromkeys(keys or self.distances, interval)
        end = self.now + seconds
        while self.now < end:
            for due, peer, distance in [each for each in self.replies if each[0] <= self.now]:
                self.replies.remove((due, peer, distance))
                self.trips.replied(peer, distance, self.now)
            self.trips.expire(self.now, lambda peer: self.received.get(peer, 0))
            for peer in self.trips.due(wanted, self.now, 12):
                self.trips.sent(peer, wanted[peer], self.now, 0.5)
                self.sent.append((self.now, peer))
                if (distance := self.distances[peer]) < 10:
                    self.replies.append((self.now + distance, peer, distance))
            self.now += 0.05


GONE = float("inf")


def test_a_peer_is_measured_at_its_interval_and_the_first_reply_is_no_value() -> None:
    bench = Bench(a=0.02)
    bench.run(0.2)
    assert (bench.trips.of(A, bench.now), bench.trips.is_alive(A, bench.now)) == (None, True)
    bench.run(10)
    assert bench.trips.of(A, bench.now) == pytest.approx(0.02)
    times = [at for at, _ in bench.sent]
    assert times[1] - times[0] == pytest.approx(WARM, abs=0.11)
    assert 5 <= len(times) <= 9


def test_a_value_follows_slowly_and_the_order_does_not_flap() -> None:
    bench = Bench(a=0.100, b=0.104)
    order = set()
    for step in range(40):
        bench.distances |= {A: 0.1 + 0.012 * (step % 2), B: 0.104 - 0.012 * (step % 2)}
        bench.run(INTERVAL)
        if step > 2:
            near, far = bench.trips.settled(A), bench.trips.settled(B)
            assert near is not None
            assert far is not None
            order.add(near < far)
    assert len(order) == 1
    bench.distances |= {A: 0.3, B: 0.05}
    bench.run(60)
    assert (bench.trips.settled(A) or 0) > (bench.trips.settled(B) or 1)


def test_a_peer_that_stops_replying_is_silent_within_the_bound_and_comes_back() -> None:
    bench = Bench(a=0.02)
    bench.run(10)
    bench.distances[A], gone = GONE, bench.now
    while bench.trips.is_alive(A, bench.now):
        bench.run(0.05)
        assert bench.now - gone <= 1.25 * INTERVAL + LOST * (WAIT + 0.1)
    bench.distances[A], back = 0.02, bench.now
    while not bench.trips.is_alive(A, bench.now):
        bench.run(0.05)
        assert bench.now - back <= 2 * INTERVAL


def test_a_peer_that_is_measured_often_is_silent_within_two_seconds() -> None:
    for distance in (0.001, 0.2):
        bench = Bench(a=distance)
        bench.run(10, OFTEN)
        assert bench.trips.is_alive(A, bench.now)
        bench.distances[A] = GONE
        bench.run(2.0, OFTEN)
        assert bench.trips.is_alive(A, bench.now) is False


def test_missing_replies_mean_nothing_while_bytes_come_in() -> None:
    bench = Bench(a=0.02)
    bench.run(5)
    bench.distances[A] = GONE
    for _ in range(20):
        bench.received[A] = bench.received.get(A, 0) + 100
        bench.run(WAIT)
        assert bench.trips.is_alive(A, bench.now) is not False


def test_bytes_from_a_silent_peer_show_that_it_only_ignores_echoes() -> None:
    bench = Bench(a=0.02)
    bench.run(5)
    bench.distances[A] = GONE
    bench.run(6)
    assert bench.trips.is_alive(A, bench.now) is False
    bench.received[A] = 100
    bench.run(2 * INTERVAL)
    assert bench.trips.is_alive(A, bench.now) is False, "the bytes can have come before it was silent"
    bench.received[A] = 200
    bench.run(2 * INTERVAL)
    assert (bench.trips.is_alive(A, bench.now), bench.trips.of(A, bench.now)) == (None, None)


def test_a_peer_that_never_replied_is_not_judged_and_measured_less_and_less() -> None:
    bench = Bench(a=GONE)
    bench.run(3600)
    assert bench.trips.is_alive(A, bench.now) is None
    assert len(bench.sent) < 3600 / SWEEP + 12
    assert bench.sent[1][0] - bench.sent[0][0] >= FIRST_WAIT


def test_after_a_pause_a_peer_is_not_judged_by_what_was_before() -> None:
    bench = Bench(a=0.02)
    bench.run(5)
    bench.now += PAUSE + 5
    assert bench.trips.is_alive(A, bench.now) is None
    assert bench.trips.of(A, bench.now) == pytest.approx(0.02)
    bench.now += KEPT
    assert bench.trips.of(A, bench.now) is None
    assert bench.trips.settled(A) == pytest.approx(0.02), "a guess for the order"
    bench.trips.keep([B])
    assert bench.trips.settled(A) is None


def test_the_peers_that_matter_are_measured_first() -> None:
    trips, wanted = RoundTrips(), {key(n): SWEEP for n in range(1, 30)} | {key(30): INTERVAL}
    first = trips.due(wanted, 1.0, 5)
    assert first[0] == key(30)
    assert len(first) == 5


def test_replies_of_unknown_peers_are_ignored() -> None:
    trips = RoundTrips()
    trips.replied(A, 0.1, 1.0)
    assert trips.of(A, 1.0) is None
