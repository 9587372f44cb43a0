"""Decoding of our contract's tokens and pages, encoded by eth-abi."""

import contextlib
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st
from tests.contracts.model import route
from tests.unit.adapters.contracts.oracle import AT, NODE_VIEW

from dstack_vpn.adapters.contracts import AccessRegistry, AccessRegistryV1, DstackAccessNft
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Endpoint, Malformed, Position
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

OURS, FIRST, DEPLOYED = AccessRegistry(), AccessRegistryV1(), DstackAccessNft()
OWNER = "0x" + "ab" * 20
KEY = PublicKey(bytes(range(32)))
URI = "data:application/json," + json.dumps({"endpoint": "uri.example.org:1"})


def node_view(token: int = 5, **changes: Any) -> tuple[Any, ...]:
    fields = {
        "token": token,
        "owner": OWNER,
        "name": "web",
        "key": str(KEY),
        "endpoint": "vpn.example.org:51820",
        "uri": URI,
        "created": 1,
        "key_block": 42,
        "expires": 99,
        "active": True,
        "awaiting": False,
        "tags": 0b101,
        "routes": [route("10.0.0.0/8"), route("fd00::/8")],
    }
    return tuple((fields | changes).values())


def ours(**changes: Any) -> Node | None:
    return OURS.parse_token(5, [encode([NODE_VIEW], [node_view(**changes)])], AT).node


def test_a_node() -> None:
    assert ours() == Node(
        token_id=5,
        owner=OWNER,
        node_id="web",
        public_key=KEY,
        endpoint=PeerEndpoint(Endpoint("vpn.example.org", 51820)),
        uri_endpoint=PeerEndpoint(Endpoint("uri.example.org", 1)),
        expires_at=99,
        tags=0b101,
        routes=("10.0.0.0/8", "fd00::/8"),
        key_since=Position(42, 0),
    )


def test_a_node_of_the_first_version() -> None:
    types = f"{NODE_VIEW.removesuffix(',uint256,bytes32[])')})"
    reply = encode([types], [node_view()[:11]])
    current = ours()
    assert current is not None
    assert FIRST.parse_token(5, [reply], AT).node == replace(current, tags=0, routes=())
    with pytest.raises(FormatError):
        OURS.parse_token(5, [reply], AT)


@pytest.mark.parametrize(
    "routes",
    [
        [route("10.0.0.1/8")],
        [bytes(32)],
        [route("10.0.0.0/8")] * 2,
        [route("fd00::/8"), route("10.0.0.0/8")],
        [route("10.0.0.0/8"), route("10.1.0.0/16")],
        [route(f"10.{i}.0.0/16") for i in range(17)],
    ],
)
def test_malformed_routes_are_kept_out(routes: list[bytes]) -> None:
    """The contract refuses them, but a reply may be forged."""
    node = ours(routes=routes)
    assert node is not None
    assert isinstance(node.routes, Malformed)


def test_a_bare_node() -> None:
    node = ours(endpoint="", uri="")
    assert node is not None
    assert (node.endpoint, node.uri_endpoint) == (None, None)


def test_a_node_that_awaits_a_key_is_active_without_one() -> None:
    node = ours(active=False, awaiting=True, key="", key_block=0)
    assert node is not None
    assert (node.active, node.public_key) == (True, None)


def test_a_revoked_node() -> None:
    node = ours(active=False)
    assert node is not None
    assert (node.active, node.public_key) == (False, KEY)


def test_malformed_fields() -> None:
    node = ours(key="x", name="a\nb", endpoint="localhost:1")
    assert node is not None
    assert all(isinstance(x, Malformed) for x in (node.public_key, node.node_id, node.endpoint))


def test_no_such_token() -> None:
    assert OURS.parse_token(5, [None], AT) == TokenState(5, None)


def test_another_token_than_asked_for() -> None:
    with pytest.raises(FormatError, match="another token"):
        OURS.parse_token(6, [encode([NODE_VIEW], [node_view()])], AT)


@given(st.integers(0, 6), st.integers(0, 2**256 - 1))
def test_pages(count: int, total: int) -> None:
    reply = encode([f"{NODE_VIEW}[]", "uint256"], [[node_view(i) for i in range(count)], total])
    observed, said = OURS.parse_page(reply, AT)
    assert said == total
    assert [x.token_id for x in observed] == list(range(count))
    assert all(x.node and x.node.token_id == x.token_id for x in observed)


def test_a_page_whose_nodes_are_all_the_same_bytes() -> None:
    reply = encode([f"{NODE_VIEW}[]", "uint256"], [[node_view()] * 2, 2])
    first = reply[96:128]
    with pytest.raises(FormatError, match="overlap"):
        OURS.parse_page(reply[:96] + first * 2 + reply[160:-640], AT)


@pytest.mark.parametrize(
    "parse", [lambda raw: OURS.parse_page(raw, AT), lambda raw: OURS.parse_token(5, [raw], AT)]
)
def test_replies_cut_anywhere(parse: Any) -> None:
    for reply in (
        encode([f"{NODE_VIEW}[]", "uint256"], [[node_view()], 1]),
        encode([NODE_VIEW], [node_view()]),
    ):
        for end in range(0, len(reply) - 32, 5):
            with pytest.raises(FormatError):
                parse(reply[:end])


words = st.binary(min_size=32, max_size=32) | st.integers(0, 20).map(lambda n: (32 * n).to_bytes(32, "big"))
replies = st.binary() | st.lists(words, max_size=40).map(b"".join)


@given(st.lists(replies, min_size=3, max_size=3))
def test_only_format_errors_escape(raw: list[bytes]) -> None:
    for parse in (
        lambda: OURS.parse_page(raw[0], AT),
        lambda: OURS.parse_token(1, raw[:1], AT),
        lambda: DEPLOYED.parse_token(1, raw, AT),
    ):
        with contextlib.suppress(FormatError):
            parse()


def test_calls_of_ours() -> None:
    assert OURS.token_calls(5) == (bytes.fromhex("4f0f4aa9") + encode(["uint256"], [5]),)
    assert OURS.page_call(500, 250) == bytes.fromhex("038d67e8") + encode(["uint256", "uint256"], [500, 250])
    assert OURS.page_size == 500


def test_every_flag_of_a_view_is_read_from_its_own_place() -> None:
    for active, awaiting in itertools.product((False, True), repeat=2):
        node = ours(active=active, awaiting=awaiting)
        assert node is not None
        assert node.active is (active or awaiting)


def test_a_revision() -> None:
    assert OURS.parse_revision(encode(["uint64"], [2**64 - 1])) == 2**64 - 1


@pytest.mark.parametrize("reply", [b"", bytes(31), encode(["uint256"], [2**64])])
def test_no_revision(reply: bytes) -> None:
    with pytest.raises(FormatError):
        OURS.parse_revision(reply)


def test_only_the_current_contract_counts_its_changes() -> None:
    assert [abi.revision_call is not None for abi in (OURS, FIRST, DEPLOYED)] == [True, False, False]
    with pytest.raises(FormatError):
        DEPLOYED.parse_revision(encode(["uint64"], [1]))
