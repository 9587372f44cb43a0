"""The deltas of several events are combined into one delta for each peer."""

from tests.scripted import key

from dstack_vpn.core.access.batch import Batch
from dstack_vpn.core.access.control import Decision, Reason
from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.model import Peer

GRANTED, REVOKED = Decision(True, Reason.ACTIVE), Decision(False, Reason.REVOKED)


def peer(number: int, *prefixes: str) -> Peer:
    return Peer(key(number), frozenset(prefixes))


A, B, C = peer(1, "10.77.0.2/32"), peer(1, "10.77.0.3/32"), peer(2, "10.77.0.4/32")


def added(what: Peer) -> Delta:
    return Delta(what.public_key, None, what, GRANTED)


def removed(what: Peer) -> Delta:
    return Delta(what.public_key, what, None, REVOKED)


def test_a_peer_that_was_added_and_removed_again_leaves_no_delta() -> None:
    batch = Batch()
    batch.add([added(A), added(C)], 1.0)
    batch.add([removed(A)], 2.0)
    assert batch.deltas == {C.public_key: added(C)}


def test_a_peer_that_was_removed_and_added_differently_is_one_change_with_the_later_reason() -> None:
    batch = Batch()
    batch.add([removed(A)], 1.0)
    batch.add([added(B)], 2.0)
    assert batch.deltas == {A.public_key: Delta(A.public_key, A, B, GRANTED)}


def test_a_peer_that_was_removed_and_added_as_it_was_leaves_no_delta() -> None:
    batch = Batch()
    batch.add([removed(A)], 1.0)
    batch.add([added(A)], 2.0)
    assert batch.deltas == {}


def test_the_time_is_that_of_the_first_event() -> None:
    batch = Batch()
    batch.add([added(A)], 5.0)
    batch.add([added(C)], 3.0)
    batch.add([removed(C)], 9.0)
    assert batch.seen == 3.0
