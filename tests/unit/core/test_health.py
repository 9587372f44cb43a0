"""Health says what is wrong, and only what a person should look at."""

from dataclasses import replace

import pytest

from dstack_vpn.core.health import HEAD_PATIENCE, Facts, Status, evaluate

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
        ({"paced": False, "head_seen": NOW - 10 * HEAD_PATIENCE}, "chain", Status.OK, True),
        ({"braked": 5}, "registry", Status.FAILED, True),
        ({"stale": True, "synced": None}, "registry", Status.WARNING, True),
        ({"stale": False, "synced": None}, "registry", Status.FAILED, False),
        ({"pinned": True}, "registry", Status.WARNING, True),
        ({"interface_up": False}, "device", Status.FAILED, False),
        ({"device_problem": "refused"}, "device", Status.FAILED, False),
        ({"own_problem": "our key is not registered"}, "membership", Status.FAILED, True),
        ({"store_problem": "disk full"}, "store", Status.WARNING, True),
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
