"""The members of roles on a whole node, and the echoes that it sends."""

import asyncio
from dataclasses import replace

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import Bench, eventually
from tests.unit.daemon.under_policy import DB, OPEN, WEB, db, enforced, policy

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.chain.events import EndpointUpdated, Revoked, TagDefined, TagsUpdated
from dstack_vpn.core.paths import round_trips
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.daemon.observe import roles

__all__ = ["db"]
NEAR, FAR = "10.77.0.3", "10.77.0.2"
"""The addresses of the tokens 2 and 1."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure 30 times as often."""
    for module, name in ((roles, "TICK"), (roles, "CHOICE"), (round_trips, "WARM")):
        monkeypatch.setattr(module, name, 0.02)
    for module, name in ((round_trips, "WAIT"), (roles, "INTERVAL"), (round_trips, "FIRST_WAIT")):
        monkeypatch.setattr(module, name, 0.05)


def members(bench: Bench, tag: str = "web") -> list[int] | None:
    found = bench.node.roles.members(tag)
    return None if found is None else list(found)


async def test_members_are_ordered_by_measured_round_trips(db: Bench) -> None:
    db.echo.distances = {NEAR: 0.002, FAR: 0.03}
    async with db.running() as node:
        await eventually(lambda: db.tokens() == {1, 2, 3})
        assert members(db) == [1, 2], "nothing is known yet"
        await eventually(lambda: members(db) == [2, 1] and node.roles.round_trip(key(1)))
        trips = [node.roles.round_trip(key(token)) for token in (1, 2, 3)]
        assert trips[0] == pytest.approx(0.03, abs=0.02)
        assert trips[1] == pytest.approx(0.002, abs=0.01)
        assert trips[2] is None, "it has another tag"
        assert set(db.echo.sent) == {NEAR, FAR}


async def test_this_node_is_a_member_and_undefined_tags_are_not(db: Bench) -> None:
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        assert members(db, "db") == [0]
        assert members(db, "mail") is None
        assert members(db, "") is None


async def test_nothing_is_sent_before_a_question_and_a_while_after(
    db: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.echo.distances = {NEAR: 0.001, FAR: 0.001}
    monkeypatch.setattr(roles, "ASKED", 0.3)
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        await asyncio.sleep(0.2)
        assert (db.echo.sent, db.echo.running) == ([], False)
        members(db)
        await eventually(lambda: len(db.echo.sent) > 3)
        await eventually(lambda: not db.node.roles._asked)
        sent = len(db.echo.sent)
        await asyncio.sleep(0.3)
        assert len(db.echo.sent) == sent
        assert not db.echo.running


async def test_a_watched_peer_is_measured_without_a_question(db: Bench) -> None:
    db.echo.distances = {NEAR: 0.001, FAR: 0.001}
    async with db.running() as node:
        await eventually(lambda: db.tokens() == {1, 2, 3})
        node.roles.watch(frozenset({key(2)}), "networks")
        await eventually(lambda: node.roles.standing(key(2)) is Standing.ALIVE)
        assert node.roles.is_measured(key(2))
        assert not node.roles.is_measured(key(1))
        db.echo.distances.clear()
        await eventually(lambda: node.roles.standing(key(2)) is Standing.SILENT)
        node.roles.watch(frozenset(), "networks")
        await eventually(lambda: not db.echo.running)
        assert set(db.echo.sent) == {NEAR}


async def test_a_silent_member_leaves_the_answer_and_comes_back(db: Bench) -> None:
    db.echo.distances = {NEAR: 0.001, FAR: 0.02}
    async with db.running():
        await eventually(lambda: members(db) == [2, 1])
        distance = db.echo.distances.pop(NEAR)
        await eventually(lambda: members(db) == [1])
        db.echo.distances[NEAR] = distance
        await eventually(lambda: members(db) == [2, 1])
        db.echo.distances.clear()
        await eventually(lambda: members(db) == [2, 1], "if no member replies, all are the answer")


async def test_a_withdrawn_tag_and_a_revocation_count_at_once(db: Bench) -> None:
    async with db.running():
        await eventually(lambda: members(db) == [1, 2])
        db.source.tell(db.chain.mine(TagsUpdated(2, DB)))
        await eventually(lambda: members(db) == [1])
        assert members(db, "db") == [0, 2] or members(db, "db") == [0]
        db.source.tell(db.chain.mine(Revoked(1), grant(4), TagsUpdated(4, WEB)))
        await eventually(lambda: members(db) == [4])


async def test_a_session_shows_that_a_member_is_alive(db: Bench) -> None:
    async with db.running() as node:
        await eventually(lambda: db.tokens() == {1, 2, 3})
        peer = db.device.peers[key(2)]
        db.device.peers[key(2)] = replace(peer, last_handshake=SystemClock().now())
        node.peer_stats._due = 0.0
        await eventually(lambda: members(db) == [2])
        node.answers.answers.overdue[key(2)] = 0.0
        assert members(db) == [1]


async def test_peers_are_not_measured_if_the_policy_denies_it(db: Bench) -> None:
    db.echo.distances = {NEAR: 0.001, FAR: 0.001}
    only = {"src": ["*"], "dst": ["node:node-1"], "ip": ["icmp:*"]}
    tcp = {"src": ["*"], "dst": ["node:node-2"], "ip": ["tcp:443"]}
    db.chain.mine(policy(db, 1, only, tcp))
    async with db.running():
        await eventually(lambda: enforced(db, 1) and db.tokens() == {1, 2})
        await eventually(lambda: members(db) == [1], "the other one is not known to be alive")
        assert set(db.echo.sent) == {FAR}
        db.source.tell(db.chain.mine(policy(db, 2, OPEN)))
        await eventually(lambda: enforced(db, 2) and members(db) == [1, 2])
        assert NEAR in db.echo.sent


async def test_members_that_no_grant_connects_do_not_appear(db: Bench) -> None:
    db.chain.mine(policy(db, 1, {"src": ["tag:db"], "dst": ["node:node-1"], "ip": ["*"]}))
    async with db.running():
        await eventually(lambda: enforced(db, 1) and db.tokens() == {1})
        assert members(db) == [1]


async def test_a_plain_client_is_a_member_and_gets_no_echo(db: Bench) -> None:
    """Token 3 is our client, and token 4 is one of node 1."""
    db.echo.distances = dict.fromkeys((NEAR, FAR, "10.77.0.4", "10.77.0.5"), 0.001)
    db.chain.mine(TagDefined(2, "gateway"), TagsUpdated(0, DB | 4), TagsUpdated(1, 4), grant(4))
    for token, gateway in ((3, "node-0"), (4, "node-1")):
        at = PeerEndpoint.parse(f"via:{gateway}")
        db.chain.mine(EndpointUpdated(token, at), TagsUpdated(token, WEB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3, 4})
        assert members(db) == [2, 3, 4]
        await eventually(lambda: members(db) == [2], "it is known to be alive")
        assert set(db.echo.sent) == {NEAR}


async def test_a_reply_that_no_echo_asked_for_is_ignored(db: Bench) -> None:
    now = SystemClock().now()
    async with db.running() as node:
        await eventually(lambda: db.tokens() == {1, 2, 3})
        members(db)
        await eventually(lambda: node.roles._sent)
        nonce = next(iter(node.roles._sent))
        for other, address in ((nonce ^ 1, NEAR), (nonce, "10.77.0.9")):
            node.roles._replied(other, address, now)
        assert node.roles.trips.is_alive(key(2), node.roles.clock.monotonic()) is None
        assert members(db) == [1, 2]


async def test_a_missing_privilege_is_logged_once(db: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    db.echo.problem = "no ICMP socket can be opened: Operation not permitted"
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        members(db)
        await asyncio.sleep(0.2)
    assert capsys.readouterr().out.count("roles.unmeasured") == 1
