"""The policy in force: a change that can't be used changes nothing."""

import json
from typing import Any

import pytest
from tests.unit.core.policy.examples import DIRECTORY, member

from dstack_vpn.core.chain.contract import Policy
from dstack_vpn.core.policy.compiler import PolicyInForce
from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.core.policy.selection import FILE, GoodPolicy, PolicySelection

OPEN = {"src": ["*"], "dst": ["*"], "ip": ["*"]}


def text(*tests: Any, ports: str = "tcp:22") -> str:
    return json.dumps({"grants": [OPEN | {"ip": [ports]}], "tests": list(tests)})


def policy(number: int, content: str | None) -> Policy:
    return Policy("0x" + f"{number:08x}" * 8, text=content)


def in_force(number: int, content: str) -> PolicyInForce:
    hash_ = policy(number, None).hash
    return PolicyInForce(f"{number:08x}", parse_policy(content), hash_, content)


def forced(found: PolicySelection) -> tuple[PolicyInForce, ...] | None:
    return found.in_force


def refusal(found: PolicySelection) -> str | None:
    return found.refused


def problem(found: PolicySelection) -> str:
    return found.refused or found.warning or ""


def members(_: PolicyDocument) -> MemberDirectory:
    return DIRECTORY


ONE, TWO = policy(1, text()), policy(2, text(ports="udp:53"))
FAILS = text({"src": "node:web-1", "deny": ["node:db:tcp:22"]})
BAD = [
    (policy(9, None), "the text of policy 0x00000009… was not read yet"),
    (policy(9, "{"), "policy 0x00000009… can't be used: line 1, column 2"),
    (policy(9, FAILS), "test 1 of policy 0x00000009… fails: web-1 to node:db:tcp:22 must be denied"),
]


def test_a_registry_that_cannot_have_a_policy_restricts_nothing() -> None:
    found = PolicySelection()
    found.choose(None, members)
    assert found.in_force is None
    assert found.good is None


def test_a_registry_without_a_policy_restricts_nothing() -> None:
    found = PolicySelection()
    found.choose([None], members)
    assert found.in_force is None
    assert found.good == GoodPolicy(None)


def test_nothing_is_permitted_before_anything_is_confirmed() -> None:
    found = PolicySelection()
    found.choose([], members)
    assert forced(found) == ()


def test_all_policies_that_are_shown_are_in_force() -> None:
    found = PolicySelection()
    found.choose([ONE, TWO, None], members)
    assert ONE.text is not None
    assert TWO.text is not None
    assert forced(found) == (in_force(1, ONE.text), in_force(2, TWO.text))
    assert found.good == GoodPolicy(ONE.hash, ONE.text)


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_policy_changes_nothing(bad: Policy, reason: str) -> None:
    found = PolicySelection()
    found.choose([ONE], members)
    before = found.in_force
    found.choose([bad], members)
    assert forced(found) == before
    assert found.good == GoodPolicy(ONE.hash, ONE.text)
    assert problem(found).startswith(reason)
    assert found.waits_for_members is ("test 1" in reason)


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_policy_after_none_restricts_nothing(bad: Policy, reason: str) -> None:
    found = PolicySelection()
    found.choose([None], members)
    found.choose([bad], members)
    assert found.in_force is None
    assert problem(found).startswith(reason)


@pytest.mark.parametrize(("bad", "reason"), BAD[:2])
def test_a_bad_policy_without_a_former_one_permits_nothing(bad: Policy, reason: str) -> None:
    found = PolicySelection()
    found.choose([bad], members)
    assert forced(found) == ()
    assert problem(found).startswith(reason)


def test_a_failing_test_without_a_former_policy_is_a_warning() -> None:
    found = PolicySelection()
    found.choose([policy(9, FAILS)], members)
    assert forced(found) == (in_force(9, FAILS),)
    assert found.refused is None
    assert found.warning is not None
    assert found.warning.startswith("test 1 of policy 0x00000009… fails")


def test_a_policy_whose_tests_pass_later_comes_into_force() -> None:
    found = PolicySelection()
    found.choose([ONE], members)
    late = policy(3, text({"src": "node:late", "accept": ["node:db:tcp:22"]}))
    found.choose([late], members)
    assert found.waits_for_members
    joined = MemberDirectory.of([*DIRECTORY.members, member(9, "late")], DIRECTORY.prefixes)
    found.choose([late], lambda _: joined)
    assert refusal(found) is None
    assert late.text is not None
    assert forced(found) == (in_force(3, late.text),)


def test_the_tests_of_an_accepted_policy_are_not_run_again() -> None:
    found = PolicySelection()
    found.choose([policy(9, FAILS)], members)  # the first: accepted with a warning
    found.choose([ONE], members)
    found.choose([policy(9, FAILS)], members)  # as after a reorg
    assert found.refused is None
    assert forced(found) == (in_force(9, FAILS),)


def test_the_last_good_policy_survives_a_restart() -> None:
    assert ONE.text is not None
    found = PolicySelection()
    found.restore(GoodPolicy(ONE.hash, ONE.text))
    found.choose([policy(9, "{")], members)
    assert forced(found) == (in_force(1, ONE.text),)
    found.choose([policy(1, None)], members)
    assert forced(found) == (in_force(1, ONE.text),)
    assert found.refused is None


def test_a_claim_without_a_text_does_not_close_the_network() -> None:
    """One endpoint that shows a false hash takes no right away."""
    assert ONE.text is not None
    found = PolicySelection()
    found.choose([ONE], members)
    found.choose([ONE, policy(9, None)], members)
    assert forced(found) == (in_force(1, ONE.text),)


def test_the_file_restricts_as_well() -> None:
    assert ONE.text is not None
    file = parse_policy(text(ports="tcp:1-30"))
    found = PolicySelection(file)
    own = PolicyInForce(FILE, file)
    found.choose(None, members)
    assert forced(found) == (own,)
    found.choose([None], members)
    assert forced(found) == (own,)
    found.choose([ONE], members)
    assert forced(found) == (in_force(1, ONE.text), own)
    found.choose([], members)
    assert forced(found) == ()
