"""The rule that lets one call repeat a full reading that agreed with our registry."""

from dataclasses import replace

import pytest
from tests.scripted import key

from dstack_vpn.core.chain.agreement import REPEATS, Agreement
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, contradicts
from dstack_vpn.core.model import BlockRef

FIRST, LATER = BlockRef(7, "h7", "h6", 0), BlockRef(9, "h9", "h8", 0)
NODES = [Node(n, "0xowner", f"node-{n}", key(n)) for n in (1, 2)]
AGREED = Agreement(FIRST, 5, Registry.of(NODES))
ROOT, OTHER_ROOT = "0x" + "ab" * 32, "0x" + "cd" * 32
READ_ONCE = Agreement(FIRST, ROOT, Registry.of(NODES))
READ_TWICE = replace(READ_ONCE, readings=2)


def test_the_same_revision_repeats_the_reading_at_the_later_block() -> None:
    again = AGREED.repeated(LATER, 5)
    assert again == replace(AGREED, at=LATER, repeats=1)


@pytest.mark.parametrize("revision", [4, 6, 0, None])
def test_any_other_revision_repeats_nothing(revision: int | None) -> None:
    assert AGREED.repeated(LATER, revision) is None


def test_a_registry_of_equal_content_is_covered() -> None:
    assert AGREED.covers(AGREED.registry)
    assert AGREED.covers(Registry.of(reversed(NODES)))


@pytest.mark.parametrize(
    "nodes",
    [
        NODES[:1],
        [*NODES, replace(NODES[0], token_id=3)],
        [replace(NODES[0], active=False), NODES[1]],
        [replace(NODES[0], suspended_key=key(1)), NODES[1]],
    ],
    ids=["a token less", "a token more", "a revoked token", "a suspended key"],
)
def test_a_registry_that_changed_is_not_covered(nodes: list[Node]) -> None:
    assert not AGREED.covers(Registry.of(nodes))


def test_after_the_last_repetition_everything_is_read() -> None:
    agreed: Agreement | None = AGREED
    for _ in range(REPEATS):
        assert agreed is not None and agreed.covers(AGREED.registry)
        agreed = agreed.repeated(LATER, 5)
    assert agreed is not None and not agreed.covers(AGREED.registry)


def test_the_states_are_those_of_a_reading_without_a_difference() -> None:
    assert AGREED.states() == [TokenState(node.token_id, node) for node in NODES]
    assert not any(contradicts(AGREED.registry, state) for state in AGREED.states())


def test_a_root_is_not_a_number() -> None:
    assert READ_TWICE.is_root and not AGREED.is_root
    assert READ_TWICE.repeated(LATER, ROOT) == replace(READ_TWICE, at=LATER, repeats=1)
    assert [READ_TWICE.repeated(LATER, x) for x in (OTHER_ROOT, 5, None)] == [None] * 3


def test_a_root_needs_a_second_full_reading() -> None:
    assert not READ_ONCE.covers(READ_ONCE.registry)
    second = Agreement.after(READ_ONCE, LATER, ROOT, Registry.of(NODES))
    assert (second.at, second.readings, second.repeats) == (LATER, 2, 0)
    assert second.covers(READ_ONCE.registry)


@pytest.mark.parametrize(
    ("before", "nodes"),
    [
        (None, NODES),
        (replace(READ_TWICE, revision=OTHER_ROOT), NODES),
        (READ_TWICE, NODES[:1]),
    ],
    ids=["no reading before", "another root", "another registry"],
)
def test_the_second_reading_shows_the_same(before: Agreement | None, nodes: list[Node]) -> None:
    found = Agreement.after(before, LATER, ROOT, Registry.of(nodes))
    assert found.readings == 1
    assert not found.covers(Registry.of(nodes))


def test_a_repetition_is_not_a_reading() -> None:
    assert Agreement.after(READ_TWICE, LATER, ROOT, READ_TWICE.registry, 1).readings == 2
    assert Agreement.after(None, LATER, 5, AGREED.registry).covers(AGREED.registry), "a number needs one"


def test_after_the_last_repetition_of_a_root_one_full_reading_is_enough() -> None:
    agreed: Agreement | None = READ_TWICE
    for _ in range(REPEATS):
        assert agreed is not None and agreed.covers(AGREED.registry)
        agreed = agreed.repeated(LATER, ROOT)
    assert agreed is not None and not agreed.covers(AGREED.registry)
    assert Agreement.after(agreed, LATER, ROOT, AGREED.registry).covers(AGREED.registry)
