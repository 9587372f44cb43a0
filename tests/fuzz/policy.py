"""Access decisions: members by registry events, their policy, and clients of the HTTP API."""

import ipaddress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final, cast

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict
from tests.fuzz.cursor import Cursor
from tests.fuzz.zone import PLAN
from tests.scripted import key
from tests.unit.core.policy.examples import DIRECTORY

from dstack_vpn.adapters.contracts import fields
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import AccessControl, NodeIdentity, Reason, own_problem
from dstack_vpn.core.access.membership import Membership, PeerPolicy, dependents, keys_of
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    OwnerKeyUpdated,
    RegistryEvent,
    Revoked,
    TokenState,
    Transferred,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, apply, revert, tokens_of
from dstack_vpn.core.model import Malformed, Position, TokenId
from dstack_vpn.core.policy.document import CLOSED_POLICY, parse_policy
from dstack_vpn.core.policy.evaluation import decide, failures, packets
from dstack_vpn.core.policy.reach import compare, count, pairs
from dstack_vpn.core.wireguard.keys import PublicKey

_FACTS: Final = 24
SMALL: Final = AddressPlan(ipaddress.IPv4Network("10.77.0.0/29"), PLAN.ipv6)
_HUGE: Final = (2**80 - 2, 2**80 - 1, 2**256 - 1)
_OWNERS: Final = ("0x" + "aa" * 20, "0x" + "bb" * 20, "0x" + "cc" * 20)


def document(text: str) -> object:
    """Parse a policy; check its lines, and its pairs in a small network by both evaluations."""
    found = parse_policy(text)
    lines, last = [grant.line for grant in found.grants], text.count("\n") + 1
    assert lines == sorted(lines)
    lines += [test.line for test in found.tests]
    assert all(0 < line <= last for line in lines)
    listed = list(pairs(found, DIRECTORY))
    assert len(listed) == count(compare(CLOSED_POLICY, found, DIRECTORY).gained)
    for src, dst, ports in listed:
        for packet in packets(src, dst, ports[0]):
            assert decide(found, DIRECTORY, packet).allowed
    list(failures(found, DIRECTORY))
    return found


def members(data: bytes) -> object:
    """Apply registry events one by one; check all granted members after the last one."""
    cursor = Cursor(data)
    head = [cursor.byte() for _ in range(5)]
    own, height, confirmations, now, quorum = key(head[0] % 5), head[1], head[2] % 4, head[3], None
    if head[4] & 1:
        quorum = Quorum(2)
    state, peers = (
        Registry(),
        Membership(PeerPolicy(template="{node_id}.example:1"), lambda key, peer_endpoint: None),
    )
    access = AccessControl(state, SMALL, own, height, confirmations, quorum)
    peers.rebuild(access, now)
    for _ in range(_FACTS):
        if not cursor:
            break
        before, (at, event) = state, fact(cursor)
        state, change = apply(before, event, at)
        assert revert(state, change) == before
        if quorum is not None:
            if head[4] & 2:
                quorum.remember([node for node in state.nodes.values() if node.token_id % 2], height)
            quorum.update(tokens_of(change), state)
        access = AccessControl(state, SMALL, own, height, confirmations, quorum)
        tokens = {*tokens_of(change), *dependents(tokens_of(change), before, state)}
        peers.update(access, keys_of(tokens, before, state), tokens, now)
    _check(access, now)
    if quorum is None:
        fresh = Membership(peers.policy, peers.lookup)
        fresh.rebuild(access, now)
        assert peers.peers == fresh.peers
        _check_addresses(access, peers, now)
    return list(access.granted(now)) or None


def _check_addresses(access: AccessControl, peers: Membership, now: int) -> None:
    """Check that each peer has the addresses of exactly the granted tokens with its key."""
    expected: dict[PublicKey, set[str]] = {}
    for node in access.granted(now):
        assert isinstance(node.public_key, PublicKey)
        expected.setdefault(node.public_key, set()).update(access.addresses.allowed_ips(node.token_id))
    assert {key: set(peer.allowed_ips) for key, peer in peers.peers.items()} == expected


def _check(access: AccessControl, now: int) -> None:
    """Check the invariants that hold after any events."""
    granted = list(access.granted(now))
    for node in granted:
        assert node.active
        assert isinstance(node.public_key, PublicKey)
        assert isinstance(node.node_id, str)
        assert node.public_key not in {access.own_key, node.suspended_key}
        assert not 0 < node.expires_at < now
        assert max(access.height - node.key_since.block, 0) >= access.confirmations
        assert access.addresses.allowed_ips(node.token_id)
        assert access.quorum is None or access.quorum.doubt(node) is None
    subjects: list[TokenId | str | PublicKey] = [
        *access.registry.nodes,
        *access.registry.by_key,
        "10.77.0.3",
        999,
    ]
    for subject in (*subjects, *access.registry.by_node_id):
        decision = access.decide(subject, now)
        assert decision.granted is (decision.reason is Reason.ACTIVE)
        assert not decision.granted or decision.node in granted
        assert str(decision).isprintable()
        if isinstance(subject, str):
            named = replace(access, identity=NodeIdentity(subject))
            assert (own_problem(named, now) or "").isprintable()
            own = named.decide(named.own_key, now)
            assert own.reason is not Reason.OWN_KEY or (own.node is not None and own.node.node_id == subject)


def fact(cursor: Cursor) -> tuple[Position, RegistryEvent]:
    """Return a registry event and its position; texts pass the same checks as the chain's."""
    at, kind, token = Position(cursor.byte(), cursor.byte()), cursor.byte() % 8, _token(cursor)
    match kind:
        case 0 | 1:
            return at, Granted(token, _owner(cursor), fields.node_id(cursor.blob()), _key(cursor))
        case 2:
            return at, Revoked(token)
        case 3:
            return at, Transferred(token, _owner(cursor))
        case 4:
            return at, KeyUpdated(token, _key(cursor))
        case 5:
            return at, OwnerKeyUpdated(_owner(cursor), _key(cursor))
        case 6:
            if cursor.byte() & 1:
                return at, ExpiryUpdated(token, cursor.byte())
            return at, EndpointUpdated(token, fields.endpoint(cursor.blob()))
        case _:
            return at, TokenState(token, node(cursor, token, at) if cursor.byte() & 3 else None)


def _token(cursor: Cursor) -> TokenId:
    number = cursor.byte()
    return _HUGE[number % 3] if number > 250 else number % 8


def _owner(cursor: Cursor) -> str:
    return _OWNERS[cursor.byte() % 3]


def _key(cursor: Cursor) -> PublicKey | Malformed | None:
    number = cursor.byte()
    return key(number % 5) if number < 200 else fields.public_key(cursor.blob())


def node(cursor: Cursor, token: TokenId, at: Position) -> Node:
    return Node(
        token,
        _owner(cursor),
        fields.node_id(cursor.blob()),
        _key(cursor),
        endpoint=fields.endpoint(cursor.blob()),
        active=bool(cursor.byte() & 3),
        expires_at=cursor.byte() if cursor.byte() & 1 else 0,
        key_since=at,
    )


# -- HTTP ------------------------------------------------------------------------------------------

_TOKEN: Final = "0123456789abcdef"
_POLICY: Final = Policy(
    token=_TOKEN,
    proxies=(ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("fd00::/8")),
    suffix="vpn.internal",
    is_member=lambda address: PLAN.token_at(str(address)) is not None,
    owner=lambda there, here: 0 if there[0] == here[0] or there[0].startswith("127.") else None,
)


class _Transport:
    def __init__(self, ends: dict[str, tuple[str, int]]) -> None:
        self.get_extra_info = ends.get


def request(data: bytes) -> object:
    """Check a request; return the client, or None if it is refused.

    The input's lines are the two addresses of the connection, the path, and the headers.
    """
    peer, own, path, *lines = [*data.decode("utf-8", "surrogateescape").split("\n"), "", "", ""]
    headers = CIMultiDict(
        (name, value.strip()) for name, _, value in (line.partition(":") for line in lines) if name
    )
    ends = {"peername": (peer, 1), "sockname": (own, 2)}
    received = cast(
        "web.Request",
        SimpleNamespace(headers=headers, path=path, transport=_Transport(ends), version=HttpVersion11),
    )
    refusal = _POLICY.refusal(received, is_open=False)
    client = _POLICY.client(received)
    if refusal is None:
        assert _may(peer, own, path, headers), "admitted without a reason"
    _POLICY.refusal(received, is_open=True)
    return client if refusal is None else None


def _may(peer: str, own: str, path: str, headers: CIMultiDict[Any]) -> bool:
    """Return whether a request can be admitted, by a simpler rule than the policy's."""
    address = _address(peer)
    if headers.get("Authorization", "").endswith(_TOKEN):
        return True
    if address is None:
        return False
    proxy = any(address in network for network in _POLICY.proxies if network.version == address.version)
    by_proxy = proxy and path.startswith("/auth")
    member = PLAN.token_at(str(address)) is not None
    return by_proxy or address.is_loopback or member or address == _address(own)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
