"""Health says what is wrong, and only what a person should look at."""

from dataclasses import replace

import pytest

from dstack_vpn.core.health import HEAD_PATIENCE, Facts, QuorumFacts, Status, clock_problem, evaluate
from dstack_vpn.core.lag import WORTH_A_LOOK

NOW = 1000.0
WELL = Facts(
    started=0.0,
    endpoint="wss://rpc.example",
    chain_problem=None,
    head=7,
    head_seen=NOW,
    synced=NOW,
    interface_up=True,
    device_problem=None,
    applied=NOW,
)


def test_all_is_well() -> None:
    health = evaluate(WELL, NOW)
    assert health.ready
    assert health.healthy
    assert health.status is Status.OK


def test_at_the_start_nothing_is() -> None:
    health = evaluate(Facts(started=NOW), NOW)
    assert not health.ready
    assert not health.healthy


@pytest.mark.parametrize(
    ("change", "component", "status", "ready"),
    [
        ({"chain_problem": "connection refused"}, "chain", Status.FAILED, True),
        ({"paced": True, "head_seen": NOW - HEAD_PATIENCE - 1}, "chain", Status.FAILED, True),
        ({"lag": (WORTH_A_LOOK, 9)}, "chain", Status.OK, True),
        ({"lag": (WORTH_A_LOOK + 1, 9)}, "chain", Status.FAILED, True),
        ({"paced": False, "head_seen": NOW - 10 * HEAD_PATIENCE}, "chain", Status.OK, True),
        ({"braked": 5}, "registry", Status.FAILED, True),
        ({"stale": True, "synced": None}, "registry", Status.WARNING, True),
        ({"stale": False, "synced": None}, "registry", Status.FAILED, False),
        ({"pinned": True}, "registry", Status.WARNING, True),
        ({"interface_up": False}, "device", Status.FAILED, False),
        ({"device_problem": "refused"}, "device", Status.FAILED, False),
        ({"own_problem": "our key is not registered"}, "membership", Status.FAILED, True),
        ({"store_problem": "disk full"}, "store", Status.WARNING, True),
        ({"clock_problem": "behind"}, "clock", Status.WARNING, True),
        ({"firewall": True, "firewall_problem": "no nft"}, "firewall", Status.FAILED, True),
        ({"unprotected": "nft is not installed"}, "firewall", Status.WARNING, True),
        ({"unprotected": "off", "unprotected_by_choice": True}, "firewall", Status.OK, True),
    ],
)
def test_each_trouble_shows_with_a_reason(
    change: dict[str, object], component: str, status: Status, *, ready: bool
) -> None:
    health = evaluate(replace(WELL, **change), NOW)  # type: ignore[arg-type]  # names and types are above
    found = next(c for c in health.components if c.name == component)
    assert found.status is status
    assert found.reason
    assert health.ready is ready
    assert health.healthy is (status is not Status.FAILED)
    assert all(c.status is Status.OK for c in health.components if c.name != component)


@pytest.mark.parametrize(
    ("facts", "status", "says"),
    [
        (QuorumFacts(2, 2), Status.OK, ""),
        (QuorumFacts(2, 1), Status.FAILED, "1 of the 2 endpoints that RPC_QUORUM asks for agree"),
        (QuorumFacts(2, 2, waiting=3), Status.WARNING, "3 grants wait until 2 endpoints show them"),
        (QuorumFacts(2, 2, disputed=list(range(12))), Status.WARNING, "8, 9 and 2 more are out"),
        (QuorumFacts(2, 2, contested={7: ["a", "b"]}), Status.FAILED, "a and b contradict each other"),
        (QuorumFacts(2, 2, quarantined={"a": "it lies"}), Status.WARNING, "a is in quarantine: it lies"),
        (QuorumFacts(2, 2, silent={"c": "gone"}), Status.WARNING, "c says nothing: gone"),
    ],
)
def test_how_the_endpoints_agree(facts: QuorumFacts, status: Status, says: str) -> None:
    health = evaluate(replace(WELL, quorum=facts), NOW)
    found = health.components[-1]
    assert (found.name, found.status) == ("quorum", status)
    assert says in found.reason


@pytest.mark.parametrize(
    ("lag", "paced", "said"),
    [
        (0.0, True, None),
        (-29.0, True, None),
        (89.0, True, None),
        (-31.0, True, "31 s behind the newest block"),
        (-3600.0, False, "3600 s behind"),
        (91.0, True, "91 s ahead of the newest block, or the endpoint is late"),
        (1e6, False, None),
    ],
)
def test_a_clock_that_is_off_is_told(lag: float, paced: bool, said: str | None) -> None:
    found = clock_problem(lag, paced=paced)
    assert found is None if said is None else said in (found or "")


def test_an_optional_part_that_does_not_work_is_a_failure() -> None:
    health = evaluate(WELL, NOW, {"dns": "can't listen on 10.77.0.2:53", "api": None})
    found = {component.name: component for component in health.components}
    assert (found["dns"].status, found["dns"].reason) == (Status.FAILED, "can't listen on 10.77.0.2:53")
    assert found["api"].status is Status.OK
    assert health.ready
    assert not health.healthy
