"""A node under a policy: ours is the database, two others are web servers."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from tests.scripted import grant
from tests.unit.daemon.conftest import OWN, Bench

from dstack_vpn.core.chain.contract import Hash
from dstack_vpn.core.chain.events import Granted, PolicyUpdated, TagDefined, TagsUpdated
from dstack_vpn.core.policy.rules import GroupRights
from dstack_vpn.core.wireguard.x25519 import derive

OPEN = {"src": ["*"], "dst": ["*"], "ip": ["*"]}
WEB_TO_DB = {"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}
WEB, DB = 1, 2


def hash_of(number: int) -> Hash:
    return "0x" + f"{number:08x}" * 8


@pytest.fixture
def db(bench: Bench) -> Bench:
    """Node 0, which is ours, has the tag db; nodes 1 and 2 have the tag web; node 3 has none."""
    bench.source.has_contract = True
    us = Granted(0, "0xowner0", "node-0", derive(OWN))
    bench.chain.mine(us, grant(1), grant(2), grant(3), TagDefined(0, "web"), TagDefined(1, "db"))
    bench.chain.mine(TagsUpdated(0, DB), TagsUpdated(1, WEB), TagsUpdated(2, WEB))
    return bench


def policy(bench: Bench, number: int, *grants: Any, tests: Iterable[Any] = ()) -> PolicyUpdated:
    text = json.dumps({"grants": grants, "tests": list(tests)})
    bench.chain.policies[hash_of(number)] = text
    return PolicyUpdated(hash_of(number))


def health(bench: Bench) -> str:
    """Return the policy's component; empty without one."""
    components = bench.health().components
    return next((f"{x.status}: {x.reason}" for x in components if x.name == "policy"), "")


def inbound(bench: Bench, token: int) -> GroupRights:
    assert bench.firewall.rules is not None
    assert bench.firewall.rules.policy is not None
    return bench.firewall.rules.policy.rights_of(f"10.77.0.{token + 1}")


def enforced(bench: Bench, number: int | None) -> bool:
    """Return whether the packet filter has the rules of that policy."""
    rules = bench.firewall.rules
    if number is None:
        return rules is None or rules.policy is None
    if rules is None or rules.policy is None:
        return False
    in_force = bench.node.members.policies.selection.in_force
    ids = [each.id for each in in_force or ()]
    return ids == [f"{number:08x}"] and rules.policy == bench.node.members.policies.rules
