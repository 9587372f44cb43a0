"""The clients of a gateway: decisions about single tokens, and their cost."""

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.scripted import key

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.clients import GatewayClients
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.membership import Membership, PeerPolicy, dependents, keys_of
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Cidr, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/16"), unique_local_prefix(1, "0x" + "0" * 40))
TAGS = ContractState(is_read=True, tag_names=("gateway",))
GATEWAY = Node(1, "0xa", "web", key(1), tags=1)
OTHER = Node(2, "0xa", "db", key(2), tags=1)


def client(token: TokenId, via: str = "web") -> Node:
    return Node(token, "0xb", f"phone-{token}", key(token), endpoint=PeerEndpoint.parse(f"via:{via}"))


def access_of(*nodes: Node) -> AccessControl:
    return AccessControl(Registry.of([GATEWAY, OTHER, *nodes], TAGS), PLAN, key(0), 99)


def addresses(*tokens: TokenId) -> frozenset[Cidr]:
    return frozenset[Cidr]().union(*map(PLAN.allowed_ips, tokens))


def test_a_client_moves_between_gateways_and_leaves() -> None:
    clients = GatewayClients()
    assert clients.update(access_of(client(3), client(4)), [1, 2, 3, 4], 0.0) == [3, 4]
    assert (clients.behind(1), clients.addresses(1)) == ({3, 4}, addresses(3, 4))
    assert clients.gateway_key(3) == key(1)
    moved = access_of(client(3, "db"), client(4))
    assert clients.update(moved, [3, 4], 0.0) == [3]
    assert (clients.behind(1), clients.addresses(1)) == ({4}, addresses(4))
    assert (clients.behind(2), clients.addresses(2)) == ({3}, addresses(3))
    revoked = access_of(client(3, "db"), replace(client(4), active=False))
    assert clients.update(revoked, [3, 4], 0.0) == [4]
    assert (clients.behind(1), clients.addresses(1)) == (set(), set())
    assert clients.gateway_key(4) is None
    assert clients.update(access_of(), [3, 4], 0.0) == [3], "a token that is gone"
    assert list(clients) == []


def test_the_first_claim_is_that_of_the_lowest_token_of_one_block() -> None:
    clients = GatewayClients()
    clients.update(access_of(client(5), client(4), client(3, "db")), [3, 4, 5], 0.0)
    first = clients.first([GATEWAY])
    assert first is not None
    assert first.node == client(4)
    assert clients.first([]) is None


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TokenId]]:
    """Collect the tokens that access control decides about."""
    found: list[TokenId] = []
    decide = AccessControl._decide

    def counted(self: AccessControl, node: Node, now: float) -> object:
        found.append(node.token_id)
        return decide(self, node, now)

    monkeypatch.setattr(AccessControl, "_decide", counted)
    yield found


@pytest.mark.parametrize("clients", [2, 100])
def test_a_change_of_one_client_decides_about_no_other(decided: list[TokenId], clients: int) -> None:
    nodes = {token: client(token) for token in range(3, 3 + clients)}
    before = access_of(*nodes.values())
    member = Membership(PeerPolicy(), lambda key, peer_endpoint: None)
    member.rebuild(before, 0.0)
    after = access_of(*nodes.values(), replace(nodes[3], active=False))
    decided.clear()
    tokens = {3, *dependents([3], before.registry, after.registry)}
    (delta,) = member.update(after, keys_of(tokens, before.registry, after.registry), tokens, 0.0)
    assert (delta.public_key, delta.lost, delta.gained) == (key(1), addresses(3), frozenset())
    assert set(decided) == {1, 3}
