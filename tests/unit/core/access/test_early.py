import ipaddress
from dataclasses import replace

import pytest
from tests.scripted import grant, key

from dstack_vpn.core.access import early
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl, Reason, own_problem
from dstack_vpn.core.access.early import EarlyRemovals, Ended, Preconfirmed, ends_key
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    LoggedEvent,
    OwnerKeyUpdated,
    RegistryEvent,
    Revoked,
    RoutesUpdated,
    TagsUpdated,
    Transferred,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, apply
from dstack_vpn.core.model import GENESIS, BlockRef, Malformed, Position
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/24"), unique_local_prefix(1, "0x" + "0" * 40))
REGISTRY = Registry.of(Node(token, f"0xowner{token}", f"node-{token}", key(token)) for token in (1, 2, 3))
REVOKED = Preconfirmed(Revoked(1), 10)
NONE = Ended()


def step(registry: Registry, tip: int, *added: RegistryEvent, at: int | None = None) -> Advanced:
    """Return the step that adds these events in a block, the tip by default."""
    block, touched = tip if at is None else at, set[int]()
    for event in added:
        registry, change = apply(registry, event, Position(block, 0))
        touched |= {getattr(each, "token_id", 0) for each in change}
    logged = tuple(LoggedEvent(block, f"h{block}", index, event) for index, event in enumerate(added))
    return Advanced(BlockRef(tip, f"h{tip}", "", 0), registry, frozenset(touched), logged)


def removed(*hints: Preconfirmed, now: float = 0.0) -> EarlyRemovals:
    found = EarlyRemovals()
    for hint in hints:
        found.announced(hint, REGISTRY, 9, now)
    return found


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Revoked(1), "revocation in block 10"),
        (Transferred(1, "0xnew"), "transfer in block 10"),
        (KeyUpdated(1, key(7)), "another key in block 10"),
        (KeyUpdated(1, None), "another key in block 10"),
        (KeyUpdated(1, Malformed("bad")), "another key in block 10"),
        (OwnerKeyUpdated("0xowner1", key(7)), "another key in block 10"),
        (Granted(1, "0xnew", "node-1", key(7)), "another key in block 10"),
        (Granted(1, "0xnew", Malformed("bad"), key(1)), "another key in block 10"),
    ],
)
def test_an_event_that_ends_a_key_removes_its_token(event: RegistryEvent, words: str) -> None:
    found = EarlyRemovals()
    assert found.announced(Preconfirmed(event, 10), REGISTRY, 9, 0.0) == {1}
    assert found.reasons == {1: words}
    assert found.announced(Preconfirmed(event, 10), REGISTRY, 9, 0.0) == frozenset()


@pytest.mark.parametrize(
    "event",
    [
        grant(4),
        grant(1),
        Revoked(4),
        KeyUpdated(1, key(1)),
        Transferred(1, "0xowner1"),
        Granted(1, "0xnew", "node-1", key(1)),
        OwnerKeyUpdated("0xnobody", key(7)),
        EndpointUpdated(1, PeerEndpoint.parse("via:node-2")),
        ExpiryUpdated(1, 1),
        TagsUpdated(1, 0),
        RoutesUpdated(1, ()),
    ],
)
def test_any_other_event_removes_nothing(event: RegistryEvent) -> None:
    found = EarlyRemovals()
    assert found.announced(Preconfirmed(event, 10), REGISTRY, 9, 0.0) == frozenset()
    assert not found.reasons and not found._hints


def test_a_token_that_is_out_is_not_removed() -> None:
    revoked = Registry.of([replace(REGISTRY.nodes[1], active=False)])
    assert not ends_key(revoked.get(1), KeyUpdated(1, key(7)))
    assert EarlyRemovals().announced(REVOKED, revoked, 9, 0.0) == frozenset()


@pytest.mark.parametrize(("height", "counts"), [(9, True), (10, False), (11, False)])
def test_a_hint_about_a_block_that_we_have_is_late(height: int, counts: bool) -> None:
    assert bool(EarlyRemovals().announced(REVOKED, REGISTRY, height, 0.0)) is counts
    assert EarlyRemovals().announced(replace(REVOKED, block=None), REGISTRY, height, 0.0) == {1}


def test_the_chain_has_the_event() -> None:
    found = removed(REVOKED)
    assert found.advanced(step(REGISTRY, 9, Revoked(2)), 1.0) == NONE
    assert found.advanced(step(REGISTRY, 9, Revoked(1), at=10), 1.0) == Ended(frozenset({1}))
    assert not found.reasons and not found._hints and found.ignored_until < 0


def test_a_revocation_that_the_same_block_takes_back_is_confirmed() -> None:
    found = removed(REVOKED)
    assert found.advanced(step(REGISTRY, 10, Revoked(1), grant(1)), 1.0) == Ended(frozenset({1}))


def test_an_equal_event_of_an_earlier_block_is_another() -> None:
    found = removed(REVOKED)
    assert found.advanced(step(REGISTRY, 9, Revoked(1), grant(1)), 1.0) == NONE


def test_the_token_is_out_until_all_of_its_events_are_here() -> None:
    found = removed(Preconfirmed(KeyUpdated(1, key(7)), 10), Preconfirmed(KeyUpdated(1, key(8)), 10))
    first = step(REGISTRY, 9, KeyUpdated(1, key(7)), at=10)
    assert found.advanced(first, 1.0) == NONE
    second = step(first.registry, 9, KeyUpdated(1, key(8)), at=10)
    assert found.advanced(second, 1.0) == Ended(frozenset({1}))


def test_a_tip_above_the_block_without_the_event() -> None:
    found = removed(REVOKED)
    assert found.advanced(step(REGISTRY, 9 + early.PASSED), 1.0) == NONE
    assert found.advanced(step(REGISTRY, 10 + early.PASSED), 1.0) == Ended(false=frozenset({1}))
    assert found.ignored_until == 1.0 + early.PAUSE


def test_a_hint_without_a_block_waits_for_its_deadline() -> None:
    found = removed(replace(REVOKED, block=None))
    assert found.advanced(step(REGISTRY, 10**6), early.DEADLINE - 1) == NONE
    assert found.expire(REGISTRY, early.DEADLINE - 1) == NONE
    assert found.expire(REGISTRY, early.DEADLINE) == Ended(false=frozenset({1}))


def test_a_repeated_hint_extends_nothing() -> None:
    found = removed(REVOKED)
    found.announced(REVOKED, REGISTRY, 9, early.DEADLINE - 1)
    assert found.expire(REGISTRY, early.DEADLINE) == Ended(false=frozenset({1}))


def test_a_registry_that_was_read_as_a_whole_confirms_an_event() -> None:
    """The event itself is in no step then."""
    found = removed(REVOKED)
    after, _ = apply(REGISTRY, Revoked(1), GENESIS)
    assert found.expire(after, early.DEADLINE) == Ended(frozenset({1}))
    assert found.ignored_until < 0


def test_after_a_false_hint_hints_are_ignored_for_a_while() -> None:
    found = removed(REVOKED)
    found.announced(Preconfirmed(Revoked(2), 10), REGISTRY, 9, early.DEADLINE - 1)
    assert found.expire(REGISTRY, early.DEADLINE).false == {1}
    assert set(found.reasons) == {2}, "a hint from before counts until its own deadline"
    assert found.announced(Preconfirmed(Revoked(3), 10), REGISTRY, 9, early.DEADLINE) == frozenset()
    assert found.expire(REGISTRY, 2 * early.DEADLINE - 1).false == {2}
    again = 2 * early.DEADLINE - 1 + early.PAUSE
    assert found.announced(REVOKED, REGISTRY, 9, again - 1) == frozenset()
    assert found.announced(REVOKED, REGISTRY, 9, again) == {1}


def test_hints_about_one_token_are_bounded() -> None:
    hints = [Preconfirmed(KeyUpdated(1, key(number)), 10) for number in range(10, 200)]
    assert len(removed(*hints)._hints[1]) == early.MOST


# -- access control --------------------------------------------------------------------------------

TAGS = ContractState(is_read=True, tag_names=("gateway",))


def access(*nodes: Node, out: int, own: int = 200) -> AccessControl:
    return AccessControl(Registry.of(nodes, TAGS), PLAN, key(own), early={out: "revocation in block 10"})


def test_a_token_that_is_out_early_has_a_reason_of_its_own() -> None:
    decision = access(*REGISTRY.nodes.values(), out=1).decide(1, 0.0)
    assert (decision.granted, decision.reason) == (False, Reason.EARLY)
    assert str(decision) == "revoked in a block that is not confirmed yet (revocation in block 10)"


def test_a_revocation_has_its_own_reason_from_its_block_on() -> None:
    revoked = replace(REGISTRY.nodes[1], active=False)
    assert access(revoked, out=1).decide(1, 0.0).reason is Reason.REVOKED


def test_this_node_does_not_remove_itself() -> None:
    found = access(*REGISTRY.nodes.values(), out=1, own=1)
    assert found.decide(1, 0.0).reason is Reason.OWN_KEY
    assert own_problem(found, 0.0) is None


def gateway(token: int, since: int) -> Node:
    return Node(token, "0xa", "gw", key(token), tags=1, key_since=Position(since, 0))


CLIENT = Node(5, "0xb", "phone", key(5), endpoint=PeerEndpoint.parse("via:gw"))


def test_the_clients_of_a_gateway_do_not_move_to_another_one_of_its_name() -> None:
    nodes = gateway(1, 1), gateway(2, 2), CLIENT
    assert access(*nodes, out=9).decide(5, 0.0).gateway == nodes[0]
    decision = access(*nodes, out=1).decide(5, 0.0)
    assert (decision.granted, decision.reason) == (False, Reason.NO_GATEWAY)
    assert decision.detail.startswith("gw: revoked in a block that is not confirmed yet")
    assert access(*nodes, out=2).decide(5, 0.0).gateway == nodes[0]


def test_this_node_keeps_its_own_clients() -> None:
    assert access(gateway(1, 1), CLIENT, out=1, own=1).decide(5, 0.0).granted
