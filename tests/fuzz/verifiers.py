"""Replies of several endpoints, through `core.access.quorum`: the granted tokens."""

from collections import defaultdict
from typing import Final

from tests.fuzz.cursor import Cursor
from tests.fuzz.policy import SMALL, fact, node
from tests.scripted import key

from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import Comparison, compare, in_force
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.registry import Registry, apply, tokens_of
from dstack_vpn.core.model import Position, TokenId

OTHERS: Final = ("b", "c", "d")
_STEPS: Final = 24


def rounds(data: bytes) -> object:
    """Apply events of the followed endpoint and, between them, rounds of replies of the others."""
    cursor = Cursor(data)
    quorum, now = Quorum(2 + cursor.byte() % 2), cursor.byte()
    state, shown = Registry(), defaultdict[TokenId, set[str]](set)
    granted: set[TokenId] = set()
    for _ in range(_STEPS):
        if not cursor:
            break
        out: set[TokenId] = set()
        if cursor.byte() & 3:
            state, change = apply(state, fact(cursor)[1], Position(cursor.byte(), 0))
            quorum.update(tokens_of(change), state)
        else:
            out = _round(cursor, quorum, state, shown)
        granted = {node.token_id for node in AccessControl(state, SMALL, key(9), 999, 0, quorum).granted(now)}
        assert not granted & out, "granted, although another endpoint has it revoked"
        assert all(len(shown[token]) >= quorum.needed - 1 for token in granted), "granted by too few"
    return granted or None


def _round(cursor: Cursor, quorum: Quorum, state: Registry, shown: dict[TokenId, set[str]]) -> set[TokenId]:
    """Query the others; return the tokens that one without a contradiction does not grant."""
    replies = [_reply(name, cursor, state) for name in OTHERS[: cursor.byte() % 4]]
    for reply in replies:
        for token in reply.same if reply.on_our_chain else ():
            shown[token].add(reply.endpoint)
    leader = Comparison("a", cursor.byte(), frozenset(state.nodes), {})
    outcome = quorum.judge(state, state, [leader, *replies] if cursor.byte() & 7 else replies)
    assert outcome.contradicted.keys() <= {"a", *OTHERS}
    honest = [reply for reply in replies if reply.endpoint not in outcome.contradicted and reply.on_our_chain]
    return {
        token
        for reply in honest
        for token, theirs in reply.differs.items()
        if token in state.nodes and not in_force(theirs)
    }


def _reply(name: str, cursor: Cursor, state: Registry) -> Comparison:
    height, flags, observed = cursor.byte(), cursor.byte(), []
    for token in sorted(state.nodes):
        kind = cursor.byte()
        if kind < 160:
            observed.append(TokenState(token, state.nodes[token]))
        elif kind < 200:
            theirs = node(cursor, token, Position(height, 0)) if kind & 1 else None
            observed.append(TokenState(token, theirs))
    same, differs = compare(state, observed)
    return Comparison(
        name, height, frozenset(same), differs, on_our_chain=bool(flags & 7), definitive=bool(flags & 8)
    )
