"""Detection of peers that do not answer, by the device's byte counters."""

import pytest
from tests.scripted import key

from dstack_vpn.core.access.answers import Answers
from dstack_vpn.core.model import PeerState
from dstack_vpn.core.wireguard.wire import ANSWER_TO_DATA, INITIATION_SIZE, KEEPALIVE_SIZE

KEY = key(1)


class Looker:
    """A peer's byte counters, compared once a second."""

    def __init__(self) -> None:
        self.answers, self.now, self.sent, self.received = Answers(), 0.0, 1000, 1000

    def second(self, sent: int = 0, received: int = 0) -> tuple[bool, bool]:
        """Return (stopped answering, answers again) for this second."""
        self.now += 1
        self.sent, self.received = self.sent + sent, self.received + received
        state = PeerState(KEY, frozenset(), rx_bytes=self.received, tx_bytes=self.sent)
        silent, back = self.answers.look(self.now, [(KEY, state)])
        return silent == [KEY], back == [KEY]


@pytest.mark.parametrize("sent", [64, INITIATION_SIZE, 1452])
def test_a_peer_that_is_sent_to_and_is_silent_is_overdue_within_15_seconds(sent: int) -> None:
    looker = Looker()
    looker.second()
    found = [looker.second(sent=sent)[0] for _ in range(15)]
    assert found.count(True) == 1
    assert found.index(True) == ANSWER_TO_DATA
    assert looker.answers.overdue == {KEY: 2.0}
    assert looker.second(received=32) == (False, True)
    assert looker.answers.overdue == {}


def test_a_burst_is_answered_by_a_passive_keepalive_after_ten_seconds() -> None:
    looker = Looker()
    looker.second()
    for _ in range(20):
        assert looker.second(sent=1452) == (False, False)
        for _ in range(9):
            assert looker.second() == (False, False)
        assert looker.second(received=KEEPALIVE_SIZE) == (False, False)


def test_an_idle_peer_and_one_that_gets_keepalives_alone_are_not_judged() -> None:
    looker = Looker()
    looker.second()
    for second in range(300):
        assert looker.second(sent=KEEPALIVE_SIZE if second % 25 == 0 else 0) == (False, False)
    assert looker.answers.overdue == {}


def test_a_device_that_was_set_up_again_starts_over() -> None:
    looker = Looker()
    looker.second()
    for _ in range(15):
        looker.second(sent=148)
    assert looker.answers.overdue
    looker.sent = looker.received = 0
    assert looker.second() == (False, False)
    assert looker.answers.overdue == {}


def test_peers_that_are_gone_are_forgotten() -> None:
    looker = Looker()
    for _ in range(16):
        looker.second(sent=148)
    looker.answers.keep([])
    assert looker.answers == Answers()
