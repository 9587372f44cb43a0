"""The members of a registry: which are registered in another one, and which are not."""

from dataclasses import replace

import pytest
from tests.anvil import key_of

from dstack_vpn.core.chain.enrolment import Enrolment
from dstack_vpn.core.chain.migration import LeftOut, members
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

HOLDER = "0x" + "aa" * 20
HOLDERS, URIS = PeerEndpoint.parse("192.0.2.1:1"), PeerEndpoint.parse("192.0.2.2:2")
NODE = Node(
    7, HOLDER, "web-1", key_of(1), HOLDERS, URIS, expires_at=2_000, tags=0b101, routes=("10.0.0.0/8",)
)
TAGS = ("web", "db", "gateway")


def test_a_member_keeps_its_data() -> None:
    found = members(Registry.of([NODE]), TAGS, 1_000)
    assert (found.left_out, found.refused) == ((), ())
    assert found.wanted == (
        (7, Enrolment("web-1", HOLDER, key_of(1), HOLDERS, ("web", "gateway"), ("10.0.0.0/8",), 2_000)),
    )


@pytest.mark.parametrize(
    ("holders", "uris", "expected"),
    [
        (None, URIS, URIS),
        (Malformed("x"), URIS, URIS),
        (Malformed("x"), Malformed("x"), None),
        (None, None, None),
    ],
)
def test_the_holders_endpoint_comes_first(
    holders: PeerEndpoint | Malformed | None,
    uris: PeerEndpoint | Malformed | None,
    expected: PeerEndpoint | None,
) -> None:
    node = replace(NODE, endpoint=holders, uri_endpoint=uris)
    assert members(Registry.of([node]), TAGS, 1_000).wanted[0][1].endpoint == expected


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (replace(NODE, active=False), "it is revoked"),
        (replace(NODE, expires_at=999), "its access has ended"),
        (replace(NODE, public_key=None), "it waits for its holder's key"),
    ],
)
def test_a_node_without_access_is_left_out(node: Node, reason: str) -> None:
    found = members(Registry.of([node]), TAGS, 1_000)
    assert found.left_out == (LeftOut(7, "web-1", reason),)
    assert (found.wanted, found.refused) == ((), ())


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (replace(NODE, node_id="Web_1"), "node id: expected"),
        (replace(NODE, node_id=Malformed("node id: hostile")), "node id: hostile"),
        (replace(NODE, public_key=Malformed("key: hostile")), "its key is malformed"),
        (replace(NODE, routes=Malformed("routes: hostile")), "routes: hostile"),
        (replace(NODE, tags=1 << 200), "a tag without a valid name"),
    ],
)
def test_a_member_that_would_be_refused_is_a_problem(node: Node, reason: str) -> None:
    found = members(Registry.of([node]), TAGS, 1_000)
    assert found.wanted == () and found.left_out == ()
    assert reason in found.refused[0].reason


def test_the_order_is_that_of_tokens_and_an_id_counts_once() -> None:
    nodes = [replace(NODE, token_id=9), replace(NODE, token_id=3), replace(NODE, token_id=5, node_id="db")]
    found = members(Registry.of(nodes), TAGS, 1_000)
    assert [token for token, _ in found.wanted] == [3, 5]
    assert found.refused == (LeftOut(9, "web-1", "token 3 has the same node id"),)
