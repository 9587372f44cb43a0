import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.contracts.token_uri import MAX_URI, endpoint_of
from dstack_vpn.core.model import Endpoint, Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

EXPECTED = PeerEndpoint(Endpoint("vpn.example.org", 51820))
JSON = json.dumps({"name": "web", "endpoint": "vpn.example.org:51820"}).encode()


def in_base64(raw: bytes) -> bytes:
    return b"data:application/json;base64," + base64.b64encode(raw)


@pytest.mark.parametrize(
    "uri",
    [
        in_base64(JSON),
        b"data:application/json," + JSON,
        b"data:application/json;charset=utf-8," + JSON.replace(b'"', b"%22"),
        b"data:application/json;charset=utf-8;base64," + base64.b64encode(JSON),
        b"DATA:Application/JSON;BASE64," + base64.b64encode(JSON).replace(b"=", b"%3D"),
    ],
)
def test_an_endpoint(uri: bytes) -> None:
    assert endpoint_of(uri) == EXPECTED


@pytest.mark.parametrize(
    "uri",
    [
        b"",
        b",",
        b"https://example.org/1.json",
        b"ipfs://x",
        b"file:///etc/passwd",
        b"data:,hello",
        b"data:text/html," + JSON,
        b"data:application/json;base64," + JSON,
        b"data:application/json" + JSON,
        in_base64(b"[]"),
        in_base64(b"null"),
        in_base64(b"{"),
        in_base64(b"\xff\xfe\xff"),
        in_base64(b'{"endpoint": 1}'),
        in_base64(b'{"endpoint": null}'),
        in_base64(b'{"endpoint": ["a:1"]}'),
        in_base64(b'{"endpoint": ""}'),
        in_base64(b'{"endpoint": ' + b"9" * 20_000 + b"}"),
        b"data:application/json," + b"[" * 60_000,
        b"data:application/json," + b'{"a":' * 12_000,
    ],
)
def test_no_endpoint(uri: bytes) -> None:
    assert endpoint_of(uri) is None


@pytest.mark.parametrize("text", ["http://example.org:1/", "127.0.0.1:51820", "a:1\n[Peer]", "[::1]:1"])
def test_a_bad_endpoint_is_told_from_none_without_being_quoted(text: str) -> None:
    found = endpoint_of(in_base64(json.dumps({"endpoint": text}).encode()))
    assert isinstance(found, Malformed)
    assert found.problem.startswith("token URI: endpoint: ")
    assert text not in found.problem


def test_a_long_uri_is_not_looked_into() -> None:
    document = b'{"endpoint": "vpn.example.org:51820"}'
    head = b"data:application/json,"
    padding = MAX_URI - len(head) - len(document)
    assert endpoint_of(head + b" " * padding + document) == EXPECTED
    too_long = Malformed(f"token URI: {MAX_URI + 1} bytes, of at most {MAX_URI}")
    assert endpoint_of(head + b" " * (padding + 1) + document) == too_long
    assert isinstance(endpoint_of(head + b" " * 5_000_000 + document), Malformed)


@given(st.binary() | st.binary().map(in_base64) | st.binary().map(lambda x: b"data:application/json," + x))
def test_nothing_escapes(uri: bytes) -> None:
    endpoint_of(uri)
