"""The members of a role: only living members with the tag, in a total order."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.scripted import key
from tests.unit.core.test_names import PLAN, node

from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.roles import OURSELVES, Nearness, RoleIndex, Standing, members, ranked
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.wireguard.keys import PublicKey

NOW = 1000.0
OWN = 1


@st.composite
def tokens(draw: st.DrawFn) -> list[Node]:
    found = []
    for token in draw(st.sets(st.integers(1, 12), max_size=8)):
        member = replace(
            node(token, f"node-{token}"),
            tags=draw(st.integers(0, 7)),
            active=draw(st.booleans()),
            expires_at=draw(st.sampled_from([0, 999, 5000])),
            public_key=draw(st.sampled_from([key(token), key(3), None])),
        )
        found.append(member)
    return found


nearness = st.builds(
    Nearness, st.sampled_from(Standing), st.one_of(st.none(), st.floats(0.0001, 1.0, allow_nan=False))
)


@given(tokens(), st.dictionaries(st.integers(1, 12), nearness), st.integers(0, 3))
def test_the_members_of_a_role(nodes: list[Node], near: dict[int, Nearness], bit: int) -> None:
    access = AccessControl(Registry.of(nodes), PLAN, key(OWN), 100_000)
    by_key = {key(token): each for token, each in near.items()} | {key(OWN): OURSELVES}

    def nearness_of(peer: PublicKey) -> Nearness:
        return by_key.get(peer, Nearness(Standing.UNJUDGED))

    candidates = ranked(access, RoleIndex().tokens(access.registry, bit), nearness_of)
    found = list(members(access, candidates, bit, NOW))

    def place(each: Node) -> tuple[int, float, int]:
        assert isinstance(each.public_key, PublicKey)
        standing, trip = nearness_of(each.public_key)
        return standing, math.inf if trip is None else trip, each.token_id

    having = [each for each in nodes if each.tags >> bit & 1]
    on = [
        each
        for each in having
        if (decision := access.decide(each.token_id, NOW)).granted or decision.reason.value == "own key"
    ]
    assert {each.token_id for each in found} <= {each.token_id for each in on}
    assert bool(found) == bool(on)
    assert list(map(place, found)) == sorted(map(place, found))
    best = min((place(each)[0] for each in on), default=None)
    assert {each.token_id for each in found} == {each.token_id for each in on if place(each)[0] == best}
