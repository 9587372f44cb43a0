"""The age of a key, its rotation, and its component in health."""

from dataclasses import replace
from typing import Any

import pytest

from dstack_vpn.core.observe.health import Component, Status, evaluate
from dstack_vpn.core.observe.reports import DeviceReport, KeyReport, MembersReport, Reports
from dstack_vpn.core.wireguard.key_age import (
    LONGEST,
    SETTLING,
    SHORTEST,
    START,
    KeyAction,
    Look,
    Schedule,
    age_of,
    span,
)

DAY = 86_400.0
SCHEDULE = Schedule(90 * DAY, 0.5)
OLD = Look(now=1000.0, age=89 * DAY, member=True, able=True)


@pytest.mark.parametrize(
    ("registry", "file", "age"),
    [
        (100.0, 100.0, 100.0),
        (100.0, 7.0, 7.0),  # the endpoint forges the time of a block
        (7.0, 100.0, 7.0),  # the key was announced late, or the file is from a backup
        (100.0, -3.0, 100.0),  # the file's time is in the future: the clock was wrong when it was written
        (100.0, None, 100.0),
        (-5.0, 100.0, 0.0),  # our clock is behind block time
        (None, 100.0, None),
    ],
)
def test_a_key_is_as_old_as_both_say(registry: float | None, file: float | None, age: float | None) -> None:
    assert age_of(registry=registry, file=file) == age


def test_it_is_changed_in_the_last_tenth_of_its_time() -> None:
    assert Schedule(100.0, 0.0).due == 90
    assert Schedule(100.0, 0.999).due < 95
    assert SCHEDULE.decide(OLD) is KeyAction.RENEW
    assert SCHEDULE.decide(replace(OLD, age=SCHEDULE.due - 1)) is KeyAction.REST
    assert SCHEDULE.decide(replace(OLD, age=None)) is KeyAction.REST


def test_nothing_is_tried_where_nobody_would_take_it() -> None:
    assert SCHEDULE.decide(replace(OLD, member=False)) is KeyAction.REST
    assert SCHEDULE.decide(replace(OLD, able=False)) is KeyAction.REMIND
    assert SCHEDULE.decide(replace(OLD, able=False, member=False)) is KeyAction.REMIND


def test_a_start_is_no_reason_to_try_at_once() -> None:
    started = SCHEDULE.started(1000.0)
    assert started.decide(OLD) is KeyAction.REST
    assert started.decide(replace(OLD, now=1000 + 2 * START)) is KeyAction.RENEW


def test_what_was_announced_gets_time_to_arrive() -> None:
    announced = SCHEDULE.failed(0.0, 0.5).announced(1000.0)
    assert announced.failures == 0
    assert announced.decide(replace(OLD, now=1000 + SETTLING - 1)) is KeyAction.REST
    assert announced.decide(replace(OLD, now=1000 + SETTLING)) is KeyAction.RENEW, "a reorg took it back"


def test_failures_make_pauses_longer_up_to_a_bound() -> None:
    schedule, pauses = SCHEDULE, []
    for _ in range(40):
        schedule = schedule.failed(1000.0, 0.999)
        pauses.append(schedule.ready_at - 1000)
    assert pauses[0] < 2 * SHORTEST
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(SHORTEST + LONGEST, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.0, "3 s"), (119.0, "119 s"), (120.0, "2 minutes"), (7200.0, "2 hours"), (90 * DAY, "90 days")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


def verdict(**facts: Any) -> Component:
    key = replace(KeyReport(longest=90 * DAY, due=82 * DAY), **facts)
    device, members = DeviceReport(up=True, problem=None), MembersReport(synced=1.0)
    health = evaluate(Reports(started=0.0, members=members, device=device, key=key), 2.0)
    assert health.ready, "a key of any age carries packets"
    return next(component for component in health.components if component.name == "key")


def test_health_warns_before_it_bites_and_says_what_to_do() -> None:
    assert verdict().status is verdict(age=DAY).status is Status.OK
    assert verdict(age=83 * DAY).status is Status.OK, "it is being changed"
    by_hand = verdict(age=83 * DAY, hindrance="run 'node rotate-key'")
    assert by_hand.status is Status.WARNING
    assert by_hand.reason == "our key is 83 days old, and KEY_MAX_AGE allows 90 days: run 'node rotate-key'"
    assert verdict(age=91 * DAY).status is Status.WARNING


def test_health_says_why_it_could_not_be_changed() -> None:
    failed = verdict(age=83 * DAY, failures=1, problem="no funds")
    assert failed.status is Status.WARNING
    assert failed.reason.endswith("; the first try to change it failed: no funds")
    assert (
        "3 tries to change it failed: no funds"
        in verdict(age=83 * DAY, failures=3, problem="no funds").reason
    )


def test_without_a_longest_age_there_is_no_component() -> None:
    assert all(component.name != "key" for component in evaluate(Reports(started=0.0), 1.0).components)
