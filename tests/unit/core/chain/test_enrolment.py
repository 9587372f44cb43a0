"""Plans for many nodes: what is missing in a registry, and what contradicts it."""

from dataclasses import replace

import pytest
from tests.anvil import key_of

from dstack_vpn.core.chain.enrolment import (
    GAS_LIMIT,
    Enrolment,
    Rights,
    mint_gas,
    pack,
    plan,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

HOLDER, OTHER = "0x" + "aa" * 20, "0x" + "bb" * 20
TAGS = ("web", None, "db")
WANTED = Enrolment(
    "web-1", HOLDER, key_of(1), PeerEndpoint.parse("192.0.2.1:1"), ("db",), ("10.0.0.0/8",), 2_000
)
BARE = Node(7, HOLDER, "web-1", key_of(1), uri_endpoint=PeerEndpoint.parse("192.0.2.1:1"))
WHOLE = replace(BARE, tags=0b100, routes=("10.0.0.0/8",), expires_at=2_000)


def test_a_missing_node_is_minted() -> None:
    found = plan([WANTED], Registry(), TAGS, 1_000)
    assert (found.mints, found.completions, found.unchanged, found.problems) == ((WANTED,), (), (), ())


def test_a_revoked_nodes_id_is_free() -> None:
    assert plan([WANTED], Registry.of([replace(WHOLE, active=False)]), TAGS, 1_000).mints == (WANTED,)


def test_a_registered_node_is_unchanged() -> None:
    found = plan([WANTED], Registry.of([WHOLE]), TAGS, 1_000)
    assert (found.mints, found.completions, found.unchanged) == ((), (), ((7, "web-1"),))
    # Its access may have ended since.
    assert plan([WANTED], Registry.of([WHOLE]), TAGS, 3_000).problems == ()


def test_an_interrupted_registration_is_completed() -> None:
    found = plan([WANTED], Registry.of([BARE]), TAGS, 1_000)
    assert found.completions == ((7, Rights(0b100, ("10.0.0.0/8",), 2_000)),)
    partly = plan([WANTED], Registry.of([replace(WHOLE, routes=())]), TAGS, 1_000)
    assert partly.completions == ((7, Rights(None, ("10.0.0.0/8",), None)),)


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (replace(WHOLE, owner=OTHER), "holder"),
        (replace(WHOLE, public_key=key_of(2)), "key"),
        (replace(WHOLE, public_key=None), "key"),
        (replace(WHOLE, uri_endpoint=None), "endpoint"),
        (replace(WHOLE, tags=1), "set of tags"),
        (replace(WHOLE, routes=("10.0.0.0/9",)), "set of routes"),
        (replace(WHOLE, routes=Malformed("hostile")), "set of routes"),
        (replace(WHOLE, expires_at=2_001), "expiry"),
        (replace(WHOLE, owner=OTHER, expires_at=1), "holder, expiry"),
    ],
)
def test_other_data_is_a_problem(node: Node, what: str) -> None:
    found = plan([WANTED], Registry.of([node]), TAGS, 1_000)
    assert found.problems == (f"web-1 is registered as token 7 with another {what}",)


def test_rights_that_are_not_wanted_are_a_problem() -> None:
    bare = Enrolment("web-1", HOLDER, key_of(1), WANTED.endpoint)
    assert plan([bare], Registry.of([BARE]), TAGS, 1_000).unchanged
    (problem,) = plan([bare], Registry.of([WHOLE]), TAGS, 1_000).problems
    assert problem.endswith("another set of tags, set of routes, expiry")


def test_an_undefined_tag_and_a_past_expiry_are_problems() -> None:
    (problem,) = plan([replace(WANTED, tags=("x",))], Registry(), TAGS, 1_000).problems
    assert "does not define x (defined: web, db)" in problem
    (problem,) = plan([WANTED], Registry(), TAGS, 2_001).problems
    assert "its access ended" in problem


def test_batches_keep_the_order_and_the_limit() -> None:
    items = [(3, letter) for letter in "abcdefg"]
    assert pack(items, 9) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert pack([(1, "a"), (100, "b"), (1, "c")], 9) == [["a"], ["b"], ["c"]]
    assert pack([]) == []
    assert len(pack([(GAS_LIMIT // 2, 1)] * 4)) == 2


def test_the_gas_of_texts_is_by_words() -> None:
    least = mint_gas("a", "")
    assert mint_gas("a" * 31, "") == least
    assert mint_gas("a" * 32, "") - least == mint_gas("a", "u") - least == 23_000
    assert mint_gas("a", "u" * 2048) - least == 65 * 23_000 < GAS_LIMIT
