"""A short chaos run over real daemons, and one that must fail. `make chaos` is the long run."""

import signal
import socket
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pytest
from tests.chaos import conductor
from tests.chaos.behind import INTERNET, USER
from tests.chaos.conductor import Outcome
from tests.chaos.plan import BY_NAME, KINDS, Change, Fault, Round, rounds
from tests.chaos.report import Report
from tests.chaos.world import World, faketime, find, world
from tests.netns_support import wait_until

from dstack_vpn.core.exit_routing import MARK
from dstack_vpn.errors import AdminError

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
SECONDS = 55
"""The length of the run: some kinds of faults. `make chaos` has all of them."""


@pytest.fixture
def network() -> Iterator[World]:
    try:
        tools = find()
    except AdminError as error:
        pytest.skip(f"CHAOS IS SKIPPED: {error}")
    with world(tools) as made:
        yield made


@pytest.mark.timeout(300)
def test_nothing_that_must_never_be_is_under_faults_at_random(network: World, tmp_path: Path) -> None:
    report = Report(1, tmp_path / "rounds.jsonl")
    kinds = [kind for kind in KINDS if kind.own_clock or faketime()]
    over = time.monotonic() + SECONDS

    def done(outcome: Outcome) -> bool:
        report.add(outcome)
        return time.monotonic() > over

    # The first round kills a gateway, so that the second one has to take over.
    gateway = BY_NAME["gateway killed"]
    first = Round(0, (Fault(gateway, "c", 0.0),), gateway.hold[0], (Change("client", "m0", 0.0),))
    conductor.play(network, chain([first], rounds(1, 0.15, kinds)), done)
    assert [outcome.row() for outcome in report.outcomes if outcome.violations] == []
    assert len(report.outcomes) >= 5
    assert sum(outcome.sent for outcome in report.outcomes) > 100
    assert sum(outcome.lost for outcome in report.outcomes) == 0
    assert network.invariants.samples > 1000
    page = report.markdown(network.transactions, network.invariants)
    assert "**0 violations.**" in page
    alone = {
        outcome.round.faults[0].kind.name for outcome in report.outcomes if len(outcome.round.faults) == 1
    }
    assert all(f"| {name} |" in page for name in alone)
    # A packet with the mark leaves beside the exit, so a leak would have been seen.
    with network.nodes[USER].namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        udp.sendto(b"marked", (INTERNET, 443))
    wait_until(lambda: [each.destination for each in network.behind.leaks.seen] == [INTERNET], "it is seen")


def test_a_daemon_that_stands_still_unannounced_is_found_out(network: World, tmp_path: Path) -> None:
    """Suspend d without a planned fault: the observer must report it."""
    node = network.nodes["d"]
    (plain,) = islice(rounds(1, 0.1, [BY_NAME["nothing at all"]]), 1)
    round_ = Round(1, (Fault(BY_NAME["nothing at all"], "a", 0.0),), 0.1, plain.changes)
    report = Report(1, tmp_path / "rounds.jsonl")

    def added(outcome: Outcome) -> bool:
        report.add(outcome)
        return True

    node.signal(signal.SIGSTOP)
    try:
        conductor.play(network, [round_], added)
        wait_until(lambda: not network.invariants.agrees("d"), "d differs from the contract")
    finally:
        node.signal(signal.SIGCONT)
    (outcome,) = report.outcomes
    found = {(violation.node, violation.what) for violation in outcome.violations}
    assert ("d", "does not follow the contract") in found
    assert {violation.node for violation in outcome.violations} == {"d"}
