"""The policies of a running node as JSON values and as metrics."""

from collections.abc import Iterator

import pytest
from jsonschema import validate  # type: ignore[import-untyped]  # schemathesis brings it
from prometheus_client.core import Metric
from tests.unit.daemon.conftest import Bench, bench, eventually
from tests.unit.daemon.under_policy import OPEN, WEB_TO_DB, db, enforced, hash_of, policy

from dstack_vpn.adapters.web.openapi import document
from dstack_vpn.core.chain.events import PolicyUpdated
from dstack_vpn.core.policy.rules import GrantId
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import DeniedPackets, PacketCount, PolicyCounts
from dstack_vpn.wiring.policy_metrics import policy_families
from dstack_vpn.wiring.view import NodeView

__all__ = ["bench", "db"]
COUNTS = PolicyCounts(
    {GrantId("00000001", 1): PacketCount(5, 300)},
    PacketCount(3, 180),
    (DeniedPackets("10.77.0.2", "10.77.0.1", 6, 22, 3),),
)


def view_of(node: Daemon) -> NodeView:
    return NodeView(node, None, None, {})


def check(name: str, value: object) -> None:
    """Check a value against its schema in the description of the API."""
    described = document("1.0.0")
    validate(value, {"$ref": f"#/components/schemas/{name}", **described})


def sampled(families: Iterator[Metric]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("dstack_vpn_policy_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


async def test_the_policy_in_force_with_its_counts(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running() as node:
        await eventually(lambda: enforced(db, 1) and db.tokens() == {1, 2})
        db.firewall.counts = COUNTS
        node.denied.counts = COUNTS
        shown = view_of(node).policy()
        check("Policy", shown)
        assert shown == {
            "in_force": [
                {
                    "id": "00000001",
                    "source": "registry",
                    "hash": hash_of(1),
                    "text": db.chain.policies[hash_of(1)],
                    "grants": 1,
                }
            ],
            "refused": None,
            "warning": None,
            "enforced": True,
            "addresses": 4,
            "granted": [{"policy": "00000001", "grant": 1, "packets": 5, "bytes": 300}],
            "denied": {"packets": 3, "bytes": 180},
            "recent": [
                {
                    "source": "10.77.0.2",
                    "node": "node-1",
                    "destination": "10.77.0.1",
                    "protocol": "tcp",
                    "port": 22,
                    "packets": 3,
                }
            ],
        }
        assert sampled(policy_families(node)) == {
            ("in_force", "00000001"): 1,
            ("refused",): 0,
            ("enforced",): 1,
            ("addresses",): 4,
            ("granted_packets_total", "00000001", "1"): 5,
            ("granted_bytes_total", "00000001", "1"): 300,
            ("denied_packets_total",): 3,
            ("denied_bytes_total",): 180,
        }


async def test_without_a_policy(db: Bench) -> None:
    async with db.running() as node:
        await eventually(lambda: db.tokens() == {1, 2, 3})
        shown = view_of(node).policy()
        check("Policy", shown)
        assert shown["in_force"] is None
        assert sampled(policy_families(node)) == {("refused",): 0}
        explained = view_of(node).explain("node-1", "node-0", "tcp:22")
        check("Explanation", explained)
        assert explained["allowed"]
        assert explained["reason"] == "no policy restricts connections"


@pytest.mark.parametrize(
    ("source", "destination", "port", "reason"),
    [
        ("node-1", "node-0", "tcp:5432", "grant 1 allows it"),
        ("node-1", "node-0", "tcp:22", "grant 1 allows other ports, but not tcp:22"),
        ("node-3", "node-0", "tcp:5432", "no grant has node-3 as a source"),
        ("node-1", "node-3", "icmp", "no grant for node-1 has node-3 as a destination"),
    ],
)
async def test_a_decision_has_its_reason(
    db: Bench, source: str, destination: str, port: str, reason: str
) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running() as node:
        await eventually(lambda: enforced(db, 1))
        found = view_of(node).explain(source, destination, port)
        check("Explanation", found)
        assert found["reason"] == reason
        assert found["allowed"] is reason.endswith("allows it")
        assert [each["id"] for each in found["policies"]] == ["00000001"]


@pytest.mark.parametrize(
    ("source", "destination", "port"),
    [("node-9", "node-0", "tcp:1"), ("node-1", "node-0", "tcp:1-9"), ("node-1", "node-0", "sctp:1")],
)
async def test_questions_without_an_answer(db: Bench, source: str, destination: str, port: str) -> None:
    async with db.running() as node:
        await eventually(db.tokens)
        with pytest.raises(FormatError):
            view_of(node).explain(source, destination, port)


async def test_nothing_is_permitted_before_a_policy_is_confirmed(db: Bench) -> None:
    db.chain.policies[hash_of(1)] = "{"
    db.chain.mine(PolicyUpdated(hash_of(1)))
    async with db.running() as node:
        await eventually(lambda: node.members.policies.selection.refused)
        shown = view_of(node).policy()
        check("Policy", shown)
        assert shown["in_force"] == []
        assert not view_of(node).explain("node-1", "node-0", "tcp:1")["allowed"]


async def test_the_rights_between_this_node_and_another(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB, OPEN | {"dst": ["tag:web"], "ip": ["udp:53", "icmp:*"]}))
    async with db.running() as node:
        await eventually(lambda: enforced(db, 1) and db.tokens() == {1, 2})
        found = await view_of(node).peer("node-1")
        assert found is not None
        assert found["policy"] == {"inbound": ["tcp:5432"], "outbound": ["udp:53", "icmp:*"]}
        assert found["peer"] is not None
        db.source.tell(db.chain.mine(PolicyUpdated(None)))
        await eventually(lambda: enforced(db, None))
        found = await view_of(node).peer("node-1")
        assert found is not None
        assert found["policy"] is None
