"""Decoding of the deployed contract's tokens, encoded by eth-abi."""

import base64
import json

import pytest
from eth_abi.abi import encode
from tests.unit.adapters.contracts.oracle import AT, ZERO

from dstack_vpn.adapters.contracts import AccessRegistry, DstackAccessNft
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import END_OF_BLOCK, Endpoint, Malformed, Position
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

OURS, DEPLOYED = AccessRegistry(), DstackAccessNft()
OWNER = "0x" + "ab" * 20
KEY = PublicKey(bytes(range(32)))
URI = "data:application/json," + json.dumps({"endpoint": "uri.example.org:1"})


def access(name: str = "web", key: str = str(KEY), *, active: bool = True) -> bytes:
    return encode(["string", "string", "uint256", "bool"], [name, key, 1, active])


OWNER_REPLY, URI_REPLY = encode(["address"], [OWNER]), encode(["string"], [URI])


def test_a_deployed_token() -> None:
    assert DEPLOYED.parse_token(5, [access(), OWNER_REPLY, URI_REPLY], AT).node == Node(
        token_id=5,
        owner=OWNER,
        node_id="web",
        public_key=KEY,
        uri_endpoint=PeerEndpoint(Endpoint("uri.example.org", 1)),
        key_since=Position(AT.number, END_OF_BLOCK),
    )


def test_a_deployed_token_without_uri_or_access() -> None:
    node = DEPLOYED.parse_token(5, [access(key="", active=False), OWNER_REPLY, None], AT).node
    assert node is not None
    assert (node.active, node.public_key, node.uri_endpoint) == (False, None, None)


@pytest.mark.parametrize("owner", [None, encode(["address"], [ZERO])])
def test_a_deployed_token_that_is_gone(owner: bytes | None) -> None:
    assert DEPLOYED.parse_token(5, [access(), owner, None], AT) == TokenState(5, None)
    assert DEPLOYED.parse_token(5, [None, OWNER_REPLY, None], AT) == TokenState(5, None)


@pytest.mark.parametrize(("access_reply", "owner"), [(b"", OWNER_REPLY), (access(), b"")])
def test_a_null_reply_is_an_error_not_a_missing_token(access_reply: bytes, owner: bytes) -> None:
    with pytest.raises(FormatError):
        DEPLOYED.parse_token(5, [access_reply, owner, None], AT)


def test_calls_of_the_deployed() -> None:
    argument = encode(["uint256"], [5])
    assert DEPLOYED.token_calls(5) == tuple(
        bytes.fromhex(x) + argument for x in ("6a572da6", "6352211e", "c87b56dd")
    )


def test_the_deployed_contract_has_no_pages() -> None:
    assert DEPLOYED.page_size == 0
    with pytest.raises(FormatError):
        DEPLOYED.page_call(0, 1)
    with pytest.raises(FormatError):
        DEPLOYED.parse_page(b"", AT)


def test_a_megabyte_in_a_token_uri_costs_nothing_but_itself() -> None:
    big = base64.b64encode(bytes(5_000_000)).decode()
    reply = encode(["string"], ["data:application/json;base64," + big])
    node = DEPLOYED.parse_token(5, [access(), OWNER_REPLY, reply], AT).node
    assert node is not None
    assert node.uri_endpoint == Malformed(f"token URI: {len(big) + 29} bytes, of at most 65536")
