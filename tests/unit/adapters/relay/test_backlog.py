from dstack_vpn.adapters.relay.backlog import LIMIT, Backlog
from dstack_vpn.adapters.relay.counters import Counters, Drop


def test_frames_leave_in_order_and_together() -> None:
    backlog = Backlog(Counters())
    backlog.add(b"ab", 2)
    backlog.add(b"c", 1)
    assert backlog.size == 3
    assert backlog.take() == (b"abc", 3)
    assert (backlog.size, backlog.take()) == (0, (b"", 0))


def test_the_oldest_are_dropped_and_counted_by_datagrams() -> None:
    counters = Counters()
    backlog = Backlog(counters)
    half = LIMIT // 2
    for number in range(3):
        backlog.add(bytes([number]) * half, 10 + number)
    assert counters.drops[Drop.QUEUE] == 10
    assert backlog.size == LIMIT
    frames, datagrams = backlog.take()
    assert (frames[:1], frames[-1:], datagrams) == (b"\1", b"\2", 23)


def test_one_chunk_stays_however_long_it_is() -> None:
    counters = Counters()
    backlog = Backlog(counters)
    backlog.add(b"x", 1)
    backlog.add(bytes(2 * LIMIT), 7)
    assert backlog.take() == (bytes(2 * LIMIT), 7)
    assert counters.drops[Drop.QUEUE] == 1
