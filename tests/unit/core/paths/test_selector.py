"""The choice between UDP and relays."""

import pytest

from dstack_vpn.core.paths.peer_endpoint import Reach
from dstack_vpn.core.paths.selector import (
    NO_ANSWER,
    NO_HANDSHAKE,
    PROBE,
    STEADY,
    Course,
    Transport,
    Way,
    usable,
)

BOTH = Reach.parse("192.0.2.1:51820,tcp://192.0.2.1:443,tls://192.0.2.1:444")


@pytest.mark.parametrize(
    ("transport", "text"),
    [
        (Transport.AUTO, "192.0.2.1:51820,tcp://192.0.2.1:443,tls://192.0.2.1:444"),
        (Transport.UDP, "192.0.2.1:51820"),
        (Transport.TCP, "tcp://192.0.2.1:443"),
        (Transport.TLS, "tls://192.0.2.1:444"),
    ],
)
def test_the_setting_says_which_alternatives_count(transport: Transport, text: str) -> None:
    assert str(usable(BOTH, transport)) == text


def send(course: Course, start: float, seconds: float, *, session: bool = False) -> float | None:
    """Send without an answer, with a look each second; returns when the way changed."""
    sent = course._counters[0]
    for second in range(1, int(seconds) + 1):
        sent += 148
        if course.look(start + second, sent, course._counters[1], session=session, direct=False):
            return second
    return None


def hear(course: Course, now: float, *, direct: bool = False) -> bool:
    sent, received = course._counters
    return course.look(now, sent, received + 92, session=True, direct=direct)


@pytest.mark.parametrize(("session", "limit"), [(False, NO_HANDSHAKE), (True, NO_ANSWER)])
def test_udp_is_left_when_its_answers_are_overdue(session: bool, limit: float) -> None:
    course = Course()
    assert send(course, 0, 60, session=session) == limit + 1
    assert course.way is Way.RELAY


def test_an_idle_peer_is_left_where_it_is() -> None:
    course = Course()
    assert not any(course.look(now, 500, 0, session=False, direct=False) for now in range(1, 100, 30))
    assert course.way is Way.UDP


def test_a_peer_that_is_sent_keepalives_alone_is_left_where_it_is() -> None:
    course, sent = Course(), 0
    for now in range(1, 200, 25):
        sent += 32
        assert not course.look(now, sent, 0, session=True, direct=True)
    assert course.way is Way.UDP


def test_an_answer_in_time_keeps_udp() -> None:
    course = Course()
    for start in range(0, 100, 9):
        assert send(course, start, 8) is None
        hear(course, start + 9)
    assert course.way is Way.UDP


def test_where_neither_way_leads_anywhere_both_are_tried_ever_more_patiently() -> None:
    course, now, pauses = Course(), 0.0, []
    for _ in range(5):
        pause = send(course, now, 200)
        assert pause is not None
        pauses.append(pause)
        now += pause
    assert pauses == [11, 21, 41, 41, 41]
    assert course.hopeless


def on_relay() -> Course:
    course = Course()
    send(course, -NO_HANDSHAKE - 1, 60)
    assert course.way is Way.RELAY
    return course


def test_udp_is_probed_at_growing_intervals() -> None:
    course = on_relay()
    probes = [now for now in range(4000) if course.probe(now, 0.5)]
    pauses = [later - earlier for earlier, later in zip([0, *probes], probes, strict=False)]
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]


def test_a_probe_that_is_answered_leads_back() -> None:
    course = on_relay()
    assert course.by_udp(40)
    assert course.way is Way.UDP
    assert not course.probe(1e6, 0.5)


def test_a_peer_that_calls_by_udp_is_answered_by_udp() -> None:
    course = on_relay()
    assert not hear(course, 1)
    assert hear(course, 2, direct=True)
    assert course.way is Way.UDP


def pause_after_failures(rests: list[float]) -> float:
    """How long UDP is left alone after it failed again and again, each time after so many good seconds."""
    course, now = Course(), 0.0
    for rest in rests:
        course.by_udp(now)
        hear(course, now + rest)
        failed = send(course, now + rest, 60)
        assert failed is not None
        now += rest + failed
    return next(second for second in range(2000) if course.probe(now + second, 0.5))


def test_udp_that_keeps_failing_is_probed_less_often() -> None:
    assert pause_after_failures([1]) == PROBE[0]
    assert pause_after_failures([1, 1, 1]) == 4 * PROBE[0]


def test_udp_that_was_steady_is_forgiven() -> None:
    assert pause_after_failures([1, 1, STEADY]) == PROBE[0]


def test_without_an_address_or_a_route_udp_is_left_as_well() -> None:
    course = Course()
    found = next(now for now in range(100) if course.nowhere(now))
    assert found == NO_HANDSHAKE
    assert course.way is Way.RELAY
