"""Health names each problem with its reason, and only problems that need an operator."""

from dataclasses import replace
from typing import Any

import pytest

from dstack_vpn.core.chain.lag import WORTH_A_LOOK
from dstack_vpn.core.observe.health import HEAD_PATIENCE, Status, clock_problem, evaluate
from dstack_vpn.core.observe.reports import (
    ChainReport,
    DeviceReport,
    EarlyReport,
    ExitReport,
    FirewallReport,
    MembersReport,
    QuorumReport,
    Reports,
    StorageReport,
)

NOW = 1000.0
CHAIN = ChainReport("wss://rpc.example", None, head=7, head_seen=NOW)
MEMBERS = MembersReport(synced=NOW)
LONG_AGO = NOW - HEAD_PATIENCE - 1
DEVICE = DeviceReport(up=True, problem=None)
WELL = Reports(started=0.0, chain=CHAIN, members=MEMBERS, device=DEVICE)

EXIT = ExitReport("a", versions=(4, 6))


def test_all_is_well() -> None:
    health = evaluate(WELL, NOW)
    assert health.ready
    assert health.healthy
    assert health.status is Status.OK


def test_at_the_start_nothing_is() -> None:
    health = evaluate(Reports(started=NOW), NOW)
    assert not health.ready
    assert not health.healthy


@pytest.mark.parametrize(
    ("report", "status", "reason"),
    [
        (EarlyReport(endpoint="wss://e"), Status.OK, ""),
        (
            EarlyReport((3, 4), "wss://e"),
            Status.OK,
            "tokens that are out by unconfirmed blocks: 3, 4",
        ),
        (
            EarlyReport((), "wss://e", "no such subscription"),
            Status.WARNING,
            "not available from wss://e: no such subscription",
        ),
        (
            EarlyReport((3,), "wss://e", ignored_for=9.0),
            Status.WARNING,
            (
                "ignored for 9 s: the chain lacks a pre-confirmed event; "
                "tokens that are out by unconfirmed blocks: 3"
            ),
        ),
    ],
)
def test_early_revocations(report: EarlyReport, status: Status, reason: str) -> None:
    found = next(c for c in evaluate(replace(WELL, early=report), NOW).components if "early" in c.name)
    assert (found.name, found.status, found.reason) == ("early revocation", status, reason)


@pytest.mark.parametrize(
    ("change", "component", "status", "ready"),
    [
        ({"chain": ChainReport(problem="connection refused")}, "chain", Status.FAILED, True),
        (
            {"chain": replace(CHAIN, paced=True, head_seen=LONG_AGO)},
            "chain",
            Status.FAILED,
            True,
        ),
        ({"chain": replace(CHAIN, behind=WORTH_A_LOOK, blocks_behind=9)}, "chain", Status.OK, True),
        ({"chain": replace(CHAIN, behind=WORTH_A_LOOK + 1, blocks_behind=9)}, "chain", Status.FAILED, True),
        ({"chain": replace(CHAIN, head_seen=NOW - 10 * HEAD_PATIENCE)}, "chain", Status.OK, True),
        ({"device": replace(DEVICE, held=5)}, "registry", Status.FAILED, True),
        ({"members": MembersReport(stale=True)}, "registry", Status.WARNING, True),
        ({"members": MembersReport()}, "registry", Status.FAILED, False),
        ({"members": replace(MEMBERS, pinned=True)}, "registry", Status.WARNING, True),
        ({"device": replace(DEVICE, up=False)}, "device", Status.FAILED, False),
        ({"device": replace(DEVICE, problem="refused")}, "device", Status.FAILED, False),
        (
            {"members": replace(MEMBERS, own_problem="our key is not there")},
            "membership",
            Status.FAILED,
            True,
        ),
        (
            {"members": replace(MEMBERS, refused_routes=("10.0.0.0/8: it overlaps",))},
            "networks",
            Status.WARNING,
            True,
        ),
        ({"storage": StorageReport(store="disk full")}, "store", Status.WARNING, True),
        ({"chain": replace(CHAIN, clock_problem="behind")}, "clock", Status.WARNING, True),
        ({"firewall": FirewallReport(problem="no nft")}, "firewall", Status.FAILED, True),
        ({"firewall": FirewallReport(unprotected="nft is not installed")}, "firewall", Status.WARNING, True),
        ({"firewall": FirewallReport(unprotected="off", by_choice=True)}, "firewall", Status.OK, True),
        ({"exit": EXIT}, "exit", Status.OK, True),
        ({"exit": replace(EXIT, versions=(4,))}, "exit", Status.OK, True),
        ({"exit": replace(EXIT, preferred=False, refused={"b": "revoked"})}, "exit", Status.WARNING, True),
        ({"exit": replace(EXIT, preferred=False)}, "exit", Status.WARNING, True),
        ({"exit": replace(EXIT, silent=("a",))}, "exit", Status.FAILED, True),
        ({"exit": replace(EXIT, unguarded="no nft")}, "exit", Status.FAILED, True),
        ({"exit": ExitReport(refused={"a": "revoked"})}, "exit", Status.FAILED, True),
    ],
)
def test_each_trouble_shows_with_a_reason(
    change: dict[str, Any], component: str, status: Status, *, ready: bool
) -> None:
    health = evaluate(replace(WELL, **change), NOW)
    found = next(c for c in health.components if c.name == component)
    assert found.status is status
    assert found.reason
    assert health.ready is ready
    assert health.healthy is (status is not Status.FAILED)
    assert all(c.status is Status.OK for c in health.components if c.name != component)


@pytest.mark.parametrize(
    ("report", "status", "says"),
    [
        (QuorumReport(2, 2), Status.OK, ""),
        (QuorumReport(2, 1), Status.FAILED, "1 of the 2 endpoints that RPC_QUORUM asks for agree"),
        (QuorumReport(2, 2, waiting=3), Status.WARNING, "3 grants wait until 2 endpoints show them"),
        (QuorumReport(2, 2, disputed=tuple(range(12))), Status.WARNING, "8, 9 and 2 more are out"),
        (QuorumReport(2, 2, contested={7: ("a", "b")}), Status.FAILED, "a and b contradict each other"),
        (QuorumReport(2, 2, quarantined={"a": "it lies"}), Status.WARNING, "a is in quarantine: it lies"),
        (QuorumReport(2, 2, silent={"c": "gone"}), Status.WARNING, "c does not answer: gone"),
    ],
)
def test_how_the_endpoints_agree(report: QuorumReport, status: Status, says: str) -> None:
    health = evaluate(replace(WELL, quorum=report), NOW)
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
    health = evaluate(replace(WELL, parts={"dns": "can't listen on 10.77.0.2:53", "api": None}), NOW)
    found = {component.name: component for component in health.components}
    assert (found["dns"].status, found["dns"].reason) == (Status.FAILED, "can't listen on 10.77.0.2:53")
    assert found["api"].status is Status.OK
    assert health.ready
    assert not health.healthy
