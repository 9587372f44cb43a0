"""Changes are published one by one, or as one event if they are many."""

from collections.abc import Iterable

from tests.scripted import grant, key

from dstack_vpn.core.access.plan import Plan, Step
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import (
    InvitationCancelled,
    InvitationRedeemed,
    LoggedEvent,
    OwnerKeyUpdated,
    OwnerOffered,
    OwnerUpdated,
    PauseUpdated,
    PolicyRead,
    PolicyUpdated,
    RegistryEvent,
    RoleUpdated,
    RoutesUpdated,
    TagDefined,
    TagsUpdated,
    TokenState,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, Malformed, RemovePeer, SetPeer
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import (
    InvitationUsed,
    MintingPaused,
    PeerRemoved,
    PeersChanged,
    PeerSet,
    PolicyChanged,
    PolicyTextRead,
    Reorged,
    RoleChanged,
    TagNamed,
    TokenChanged,
    TokensChanged,
)
from dstack_vpn.daemon.observe.changes import ONE_BY_ONE, publish_advanced, publish_plan

REGISTRY = Registry.of(
    [Node(1, "0xa", "web", key(1)), Node(2, "0xb", Malformed("no name"), key(2))],
    ContractState(tag_names=("gateway",)),
)
TIP = BlockRef(12, "h12", "h11", 0)


def logged(*events: RegistryEvent) -> tuple[LoggedEvent, ...]:
    return tuple(LoggedEvent(12, "h12", index, event) for index, event in enumerate(events))


def advanced(
    added: Iterable[LoggedEvent] = (), dropped: Iterable[LoggedEvent] = (), *, depth: int = 0
) -> list[Event]:
    published: list[Event] = []
    step = Advanced(TIP, REGISTRY, added=tuple(added), dropped=tuple(dropped), reorg_depth=depth)
    publish_advanced(published.append, step, REGISTRY)
    return published


def test_an_event_has_its_tokens_node_id_and_owner() -> None:
    assert advanced(logged(grant(1), grant(2), OwnerKeyUpdated("0xc", key(3)), grant(7))) == [
        TokenChanged("granted", 1, "web", "0xa", 12, 0, False),
        TokenChanged("granted", 2, None, "0xb", 12, 1, False),
        TokenChanged("key updated", None, None, "0xc", 12, 2, False),
        TokenChanged("granted", 7, None, None, 12, 3, False),
    ]


HASH = "0x" + "ab" * 32


def test_the_contracts_own_events_have_their_fields() -> None:
    events = logged(
        TagDefined(0, "web"),
        TagsUpdated(1, 0b101),
        RoutesUpdated(1, ("10.0.0.0/8", "fd00::/8")),
        PolicyUpdated(HASH),
        RoleUpdated("minter", "0xb", True),
        OwnerOffered(None),
        OwnerUpdated("0xb"),
        PauseUpdated(True),
        InvitationRedeemed(HASH, 1),
        InvitationCancelled(HASH),
        PolicyRead(Policy(HASH, text="\N{SNOWMAN}")),
    )
    assert advanced(events) == [
        TagNamed(0, "web", 12, 0, False),
        TokenChanged("tags updated", 1, "web", "0xa", 12, 1, False, "gateway, #2"),
        TokenChanged("routes updated", 1, "web", "0xa", 12, 2, False, "10.0.0.0/8, fd00::/8"),
        PolicyChanged(HASH, 12, 3, False),
        RoleChanged("minter", "0xb", True, 12, 4, False),
        RoleChanged("pending owner", None, False, 12, 5, False),
        RoleChanged("owner", "0xb", True, 12, 6, False),
        MintingPaused(True, 12, 7, False),
        InvitationUsed("redeemed", HASH, 1, "web", 12, 8, False),
        InvitationUsed("cancelled", HASH, None, None, 12, 9, False),
        PolicyTextRead(HASH, 3, 12),
    ]
    assert advanced((), events[:1]) == [TagNamed(0, "web", 12, 0, True)]


def test_a_policy_that_is_gone_and_routes_that_are_malformed() -> None:
    events = logged(PolicyUpdated(None), PolicyRead(None), RoutesUpdated(1, Malformed("routes: 17")))
    assert advanced(events) == [
        PolicyChanged(None, 12, 0, False),
        TokenChanged("routes updated", 1, "web", "0xa", 12, 2, False, "routes: 17"),
        PolicyTextRead(None, 0, 12),
    ]


def test_a_reorg_comes_first_then_what_it_undid_then_what_is_new() -> None:
    found = advanced(logged(grant(2)), logged(grant(1)), depth=3)
    assert found[0] == Reorged(3, 1, 1, 12)
    assert [(each.token, each.undone) for each in found[1:] if isinstance(each, TokenChanged)] == [
        (1, True),
        (2, False),
    ]


def test_a_state_that_was_read_is_not_an_event() -> None:
    assert advanced(logged(TokenState(1, None))) == []


def test_many_at_once_are_one_event() -> None:
    many = logged(*(grant(token) for token in range(ONE_BY_ONE)))
    assert len(advanced(many)) == ONE_BY_ONE
    assert advanced(many, many[:1]) == [TokensChanged(ONE_BY_ONE, 1, 12)]


def added(number: int) -> Step:
    change = SetPeer(key(number), None, 0, frozenset())
    return Step(change, "active", RemovePeer(key(number)))


def removed(number: int) -> Step:
    return Step(RemovePeer(key(number)), "revoked", SetPeer(key(number), None, 0, frozenset()))


def carried_out(*steps: Step) -> list[Event]:
    published: list[Event] = []
    publish_plan(
        published.append,
        Plan(steps),
        tokens={step.change.public_key: 1 for step in steps},
        registry=REGISTRY,
        block=12,
        latency=0.5,
        causes={1: "12-0"},
    )
    return published


def test_each_step_of_a_plan_has_its_reason_and_cause() -> None:
    updated = Step(SetPeer(key(3), None, 25), "active", SetPeer(key(3), None, 0))
    assert carried_out(removed(1), added(2), updated) == [
        PeerRemoved(key(1), 1, "web", "0xa", "revoked", 12, 0.5, cause="12-0"),
        PeerSet(key(2), 1, "web", "0xa", "active", True, 12, 0.5, cause="12-0"),
        PeerSet(key(3), 1, "web", "0xa", "active", False, 12, 0.5, cause="12-0"),
    ]


def test_many_steps_are_one_event() -> None:
    steps = [removed(1), *(added(number) for number in range(2, ONE_BY_ONE + 2))]
    assert carried_out(*steps) == [PeersChanged(ONE_BY_ONE, 1, 12, 0.5)]
