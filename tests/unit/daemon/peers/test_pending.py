from tests.scripted import key

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.access.control import Decision, Reason
from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.model import Peer
from dstack_vpn.daemon.peers.debounce import Debounce
from dstack_vpn.daemon.peers.pending import PendingChanges

GRANTED = Decision(granted=True, reason=Reason.ACTIVE)


def delta(number: int) -> Delta:
    return Delta(key(number), None, Peer(key(number), frozenset()), GRANTED)


def test_deltas_wait_together_until_they_are_taken() -> None:
    changes = PendingChanges(Debounce(SystemClock()))
    changes.submit([delta(1)], 5.0)
    changes.submit([delta(2)], 6.0)
    assert changes.work.is_set()
    batch = changes.take()
    assert (set(batch.deltas), batch.seen) == ({key(1), key(2)}, 5.0)
    assert not changes.take().deltas
    assert set(changes.reasons) == {key(1), key(2)}, "the repair names them, too"
    changes.keep_reasons({key(2)})
    assert set(changes.reasons) == {key(2)}


def test_without_deltas_the_device_is_only_compared() -> None:
    changes = PendingChanges(Debounce(SystemClock()))
    changes.submit([], 5.0)
    assert not changes.work.is_set()
    assert changes.repairs._requested.is_set()
