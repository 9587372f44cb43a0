"""The choice between UDP and relays."""

import pytest

from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.selector import (
    NO_ANSWER,
    NO_HANDSHAKE,
    PROBE,
    STEADY,
    Path,
    PathSelector,
    TransportMode,
    usable,
)

BOTH = PeerEndpoint.parse("192.0.2.1:51820,tcp://192.0.2.1:443,tls://192.0.2.1:444")


@pytest.mark.parametrize(
    ("transport", "text"),
    [
        (TransportMode.AUTO, "192.0.2.1:51820,tcp://192.0.2.1:443,tls://192.0.2.1:444"),
        (TransportMode.UDP, "192.0.2.1:51820"),
        (TransportMode.TCP, "tcp://192.0.2.1:443"),
        (TransportMode.TLS, "tls://192.0.2.1:444"),
    ],
)
def test_the_setting_says_which_alternatives_count(transport: TransportMode, text: str) -> None:
    assert str(usable(BOTH, transport)) == text


def send(selector: PathSelector, start: float, seconds: float, *, session: bool = False) -> float | None:
    """Send without an answer; return the second in which the path changed, or None."""
    sent = selector._counters[0]
    for second in range(1, int(seconds) + 1):
        sent += 148
        if selector.look(start + second, sent, selector._counters[1], session=session, direct=False):
            return second
    return None


def hear(selector: PathSelector, now: float, *, direct: bool = False) -> bool:
    sent, received = selector._counters
    return selector.look(now, sent, received + 92, session=True, direct=direct)


@pytest.mark.parametrize(("session", "limit"), [(False, NO_HANDSHAKE), (True, NO_ANSWER)])
def test_udp_is_left_when_its_answers_are_overdue(session: bool, limit: float) -> None:
    selector = PathSelector()
    assert send(selector, 0, 60, session=session) == limit + 1
    assert selector.way is Path.RELAY


def test_an_idle_peer_is_left_where_it_is() -> None:
    selector = PathSelector()
    assert not any(selector.look(now, 500, 0, session=False, direct=False) for now in range(1, 100, 30))
    assert selector.way is Path.UDP


def test_a_peer_that_is_sent_keepalives_alone_is_left_where_it_is() -> None:
    selector, sent = PathSelector(), 0
    for now in range(1, 200, 25):
        sent += 32
        assert not selector.look(now, sent, 0, session=True, direct=True)
    assert selector.way is Path.UDP


def test_an_answer_in_time_keeps_udp() -> None:
    selector = PathSelector()
    for start in range(0, 100, 9):
        assert send(selector, start, 8) is None
        hear(selector, start + 9)
    assert selector.way is Path.UDP


def test_where_neither_way_leads_anywhere_both_are_tried_ever_more_patiently() -> None:
    selector, now, pauses = PathSelector(), 0.0, []
    for _ in range(5):
        pause = send(selector, now, 200)
        assert pause is not None
        pauses.append(pause)
        now += pause
    assert pauses == [11, 21, 41, 41, 41]
    assert selector.exhausted


def on_relay() -> PathSelector:
    selector = PathSelector()
    send(selector, -NO_HANDSHAKE - 1, 60)
    assert selector.way is Path.RELAY
    return selector


def test_udp_is_probed_at_growing_intervals() -> None:
    selector = on_relay()
    probes = [now for now in range(4000) if selector.probe(now, 0.5)]
    pauses = [later - earlier for earlier, later in zip([0, *probes], probes, strict=False)]
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]


def test_a_probe_that_is_answered_leads_back() -> None:
    selector = on_relay()
    assert selector.by_udp(40)
    assert selector.way is Path.UDP
    assert not selector.probe(1e6, 0.5)


def test_a_peer_that_calls_by_udp_is_answered_by_udp() -> None:
    selector = on_relay()
    assert not hear(selector, 1)
    assert hear(selector, 2, direct=True)
    assert selector.way is Path.UDP


def pause_after_failures(rests: list[float]) -> float:
    """Return the pause of UDP after repeated failures, each after the given seconds without one."""
    selector, now = PathSelector(), 0.0
    for rest in rests:
        selector.by_udp(now)
        hear(selector, now + rest)
        failed = send(selector, now + rest, 60)
        assert failed is not None
        now += rest + failed
    return next(second for second in range(2000) if selector.probe(now + second, 0.5))


def test_udp_that_keeps_failing_is_probed_less_often() -> None:
    assert pause_after_failures([1]) == PROBE[0]
    assert pause_after_failures([1, 1, 1]) == 4 * PROBE[0]


def test_udp_that_was_steady_is_forgiven() -> None:
    assert pause_after_failures([1, 1, STEADY]) == PROBE[0]


def test_without_an_address_or_a_route_udp_is_left_as_well() -> None:
    selector = PathSelector()
    found = next(now for now in range(100) if selector.nowhere(now))
    assert found == NO_HANDSHAKE
    assert selector.way is Path.RELAY
