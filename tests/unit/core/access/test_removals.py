"""Removals are limited over time: many small plans are held like one large plan."""

from tests.scripted import key

from dstack_vpn.core.access.removals import WINDOW, Removals
from dstack_vpn.core.wireguard.keys import PublicKey


def keys(*numbers: int) -> set[PublicKey]:
    return {key(number) for number in numbers}


class Network:
    """A network of peers that counts its removals."""

    def __init__(self, peers: int) -> None:
        self.peers = keys(*range(peers))
        self.removals = Removals()
        self.now = 0.0

    def remove(self, *numbers: int) -> bool:
        """Remove the peers, or return False if the removals are held."""
        self.removals.observe(len(self.peers), self.now)
        if self.removals.exceed(keys(*numbers)):
            return False
        self.removals.let_go(dict.fromkeys(keys(*numbers)), self.now)
        self.peers -= keys(*numbers)
        return True


def test_forty_peers_do_not_go_in_five_steps() -> None:
    network = Network(40)
    steps = (range(20), range(20, 30), range(30, 35), range(35, 38), range(38, 40))
    went = []
    for step in steps:
        went.append(network.remove(*step))
        network.now += 60
    assert went == [True, False, False, False, False]
    assert len(network.peers) == 20


def test_keys_that_replace_removed_ones_do_not_raise_the_limit() -> None:
    network = Network(40)
    went = 0
    for first in range(0, 40, 8):
        if network.remove(*range(first, first + 8)):
            went += 8
            network.peers |= keys(*range(100 + first, 108 + first))
    assert went == 16, "a third step would leave less than half of those who were there"


def test_a_slow_trickle_is_never_held() -> None:
    network = Network(40)
    for number in range(36):
        assert network.remove(number)
        network.now += WINDOW / 2


def test_a_confirmed_removal_does_not_count() -> None:
    network = Network(40)
    assert network.remove(*range(20))
    assert not network.remove(20)
    network.removals.forget(keys(*range(20)))
    assert network.remove(20)


def test_the_hour_ends() -> None:
    network = Network(40)
    assert network.remove(*range(20))
    network.now = WINDOW
    assert not network.remove(20)
    network.now = WINDOW + 1
    assert network.remove(*range(20, 30)), "half of the 20 that there are now"
    assert not network.remove(30)


def test_a_network_of_four_is_not_held() -> None:
    network = Network(4)
    assert network.remove(0, 1, 2, 3)
    grown = Network(5)
    assert grown.remove(0, 1)
    assert not grown.remove(2)
