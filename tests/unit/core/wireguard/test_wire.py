from dstack_vpn.core.wireguard.wire import ANSWER_TO_DATA, ANSWER_TO_INITIATION, Watch


def test_an_initiation_must_be_answered() -> None:
    watch = Watch()
    watch.initiation(10.0)
    assert watch.tick(14.9, sent=True, received=False) is None
    overdue = watch.tick(10.0 + ANSWER_TO_INITIATION, sent=False, received=False)
    assert overdue is not None
    assert "handshake" in overdue


def test_whatever_comes_after_an_initiation_answers_it() -> None:
    watch = Watch()
    watch.initiation(10.0)
    watch.received = True
    assert watch.tick(11.0, sent=True, received=True) is None
    assert watch.tick(16.0, sent=False, received=False) is None


def test_what_came_before_it_does_not() -> None:
    watch = Watch()
    watch.received = True
    watch.initiation(10.0)
    assert watch.tick(10.4, sent=True, received=True) is None
    assert watch.tick(15.0, sent=False, received=False) is not None


def test_a_second_initiation_does_not_start_the_clock_again() -> None:
    watch = Watch()
    watch.initiation(10.0)
    watch.initiation(14.0)
    assert watch.tick(15.0, sent=True, received=False) is not None


def test_data_must_be_answered_too_but_later() -> None:
    watch = Watch()
    now = 0.0
    while now < ANSWER_TO_DATA:
        assert watch.tick(now, sent=True, received=False) is None
        now += 0.5
    assert watch.tick(now, sent=True, received=False) is not None


def test_silence_on_both_sides_owes_nothing() -> None:
    watch = Watch()
    assert watch.tick(0.0, sent=True, received=True) is None
    for now in range(1, 1000):
        assert watch.tick(float(now), sent=False, received=False) is None


def test_an_answer_to_data_settles_it() -> None:
    watch = Watch()
    for now in range(11):
        assert watch.tick(float(now), sent=True, received=False) is None
    assert watch.tick(11.0, sent=True, received=True) is None
    assert watch.tick(12.0, sent=True, received=False) is None


def test_another_connection_begins_with_a_clean_slate() -> None:
    watch = Watch()
    watch.initiation(0.0)
    watch.reset()
    assert watch.tick(100.0, sent=True, received=False) is None
