from dstack_vpn.core.paths.failover import (
    PAUSE,
    PAUSE_LIMIT,
    PAUSE_STALLED,
    PAUSE_STALLED_LIMIT,
    PERSISTENT,
    PROBE,
    WELL,
    Failover,
)


def test_the_order_of_preference_counts_at_first() -> None:
    assert Failover(3).order(0.0) == [0, 1, 2]


def test_one_that_failed_comes_last_until_its_pause_is_over() -> None:
    health = Failover(3)
    health.failed(0, 100.0, 1.0)
    assert health.order(100.0) == [1, 2, 0]
    assert not health.available(0, 100.0)
    assert health.available(0, 100.0 + PAUSE)


def test_one_that_answers_again_is_not_trusted_at_once() -> None:
    health = Failover(2)
    health.failed(0, 0.0, 1.0)
    health.answered(0, 10.0, None)
    assert health.order(10.0) == [1, 0]
    assert health.better(1, 10.0 + WELL - 1) is None
    assert health.better(1, 10.0 + WELL) == 0


def test_a_failure_while_recovering_starts_the_wait_again() -> None:
    health = Failover(2)
    health.failed(0, 0.0, 1.0)
    health.answered(0, 10.0, None)
    health.failed(0, 50.0, 1.0)
    health.answered(0, 60.0, None)
    assert health.better(1, 10.0 + WELL) is None
    assert health.better(1, 60.0 + WELL) == 0


def test_pauses_double_up_to_a_limit_and_have_jitter() -> None:
    health = Failover(1)
    now = 0.0
    pauses = []
    for _ in range(12):
        health.failed(0, now, 1.0)
        low = now
        while not health.available(0, low):
            low += PAUSE / 4
        pauses.append(low - now)
        now = low
    assert pauses[:3] == [PAUSE, 2 * PAUSE, 4 * PAUSE]
    assert pauses[-1] == PAUSE_LIMIT
    least, most = Failover(1), Failover(1)
    least.failed(0, 0.0, 0.0)
    most.failed(0, 0.0, 1.0)
    assert least.available(0, PAUSE / 2)
    assert not most.available(0, PAUSE / 2)


def test_one_that_stalled_is_left_alone_for_longer() -> None:
    health = Failover(1)
    health.failed(0, 0.0, 1.0, stalled=True)
    assert not health.available(0, PAUSE_STALLED - 1)
    for _ in range(10):
        health.failed(0, 0.0, 1.0, stalled=True)
    assert health.available(0, PAUSE_STALLED_LIMIT)


def test_long_good_service_forgives() -> None:
    health = Failover(1)
    for _ in range(5):
        health.failed(0, 0.0, 1.0)
    health.answered(0, 100.0, None)
    health.answered(0, 100.0 + WELL, None)
    health.failed(0, 300.0, 1.0)
    assert health.available(0, 300.0 + PAUSE)


def test_one_that_is_much_slower_for_long_gives_way() -> None:
    health = Failover(2)
    health.answered(0, 0.0, 0.2)
    health.answered(1, 0.0, 0.02)
    assert health.better(0, 1.0) is None
    health.answered(0, PERSISTENT, 0.2)
    assert health.better(0, PERSISTENT) == 1


def test_a_short_delay_changes_nothing() -> None:
    health = Failover(2)
    health.answered(1, 0.0, 0.02)
    health.answered(0, 0.0, 0.2)
    for now in range(1, 40):
        health.answered(0, float(now), 0.02)
    assert health.better(0, PERSISTENT + 40) is None


def test_probes_come_at_intervals_to_those_not_in_use() -> None:
    health = Failover(3)
    assert health.probes(0.0, [0], 0.5) == [1, 2]
    assert health.probes(PROBE - 1, [0], 0.5) == []
    assert health.probes(PROBE, [0], 0.5) == [1, 2]


def test_one_that_is_down_is_not_probed() -> None:
    health = Failover(2)
    health.failed(1, 0.0, 1.0, stalled=True)
    assert health.probes(1.0, [0], 0.5) == []
    assert health.probes(PAUSE_STALLED, [0], 0.5) == [1]
