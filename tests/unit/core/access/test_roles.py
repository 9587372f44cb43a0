"""The members of a role and their order."""

from dataclasses import replace

import pytest
from tests.scripted import key
from tests.unit.core.test_names import PLAN, node

from dstack_vpn.core.access import roles
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.roles import Nearness, RoleIndex, Standing, members, ranked
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.wireguard.keys import PublicKey

DB = 1
ALIVE, UNJUDGED, SILENT = Standing
UNKNOWN = Nearness(UNJUDGED)


def db(token: int, **more: object) -> Node:
    return node(token, f"db-{token}", tags=1 << DB, **more)


def found(
    *nodes: Node, near: dict[int, Nearness] | None = None, own: int = 1, quorum: Quorum | None = None
) -> list[int]:
    access = AccessControl(Registry.of(nodes), PLAN, key(own), 100_000, quorum=quorum)
    by_key = {key(token): each for token, each in (near or {}).items()}

    def nearness(peer: PublicKey) -> Nearness:
        return by_key.get(peer, UNKNOWN)

    candidates = ranked(access, RoleIndex().tokens(access.registry, DB), nearness)
    return [each.token_id for each in members(access, candidates, DB, 1000.0)]


def test_the_nearest_comes_first_and_unknown_distances_last_by_token() -> None:
    near = {2: Nearness(ALIVE, 0.2), 3: Nearness(ALIVE), 4: Nearness(ALIVE, 0.1), 5: Nearness(ALIVE)}
    assert found(db(5), db(2), db(3), db(4), near=near) == [4, 2, 3, 5]


def test_this_node_is_the_nearest_if_it_has_the_tag() -> None:
    near = {2: Nearness(ALIVE, 0.001)}
    assert found(db(1), db(2), near=near) == [1, 2]
    assert found(node(1, "own"), db(2), near=near) == [2]


def test_silent_members_are_left_out_while_another_is_alive() -> None:
    near = {2: Nearness(SILENT, 0.01), 3: Nearness(ALIVE, 0.5), 4: UNKNOWN}
    assert found(db(2), db(3), db(4), near=near) == [3]


@pytest.mark.parametrize("standing", [UNJUDGED, SILENT])
def test_without_a_member_that_is_alive_the_best_state_counts(standing: Standing) -> None:
    near = {2: Nearness(standing), 3: Nearness(SILENT), 4: Nearness(standing, 0.1)}
    assert found(db(2), db(3), db(4), near=near) == ([4, 2, 3] if standing is SILENT else [4, 2])


@pytest.mark.parametrize("more", [{"active": False}, {"expires_at": 999}, {"public_key": None}, {"tags": 1}])
def test_only_members_with_the_tag_count(more: dict[str, object]) -> None:
    assert found(replace(db(2), **more), db(3), near={2: Nearness(ALIVE, 0.1)}) == [3]  # type: ignore[arg-type]  # by field


def test_a_tag_counts_once_a_quorum_has_confirmed_it() -> None:
    quorum = Quorum(2)
    quorum.remember([node(2, "db-2"), db(3)], 1)
    assert found(db(2), db(3), quorum=quorum) == [3]


def test_a_role_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "LARGEST", 3)
    assert found(*(db(token) for token in (9, 2, 5, 7))) == [2, 5, 7]


def test_the_index_follows_the_registry() -> None:
    index = RoleIndex()
    assert list(index.tokens(Registry.of([db(2), db(3)]), DB)) == [2, 3]
    assert list(index.tokens(Registry.of([db(3)]), DB)) == [3]
    assert list(index.tokens(Registry.of([db(3)]), 7)) == []
