import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.adapters.chain.hostile import jsons

from dstack_vpn.adapters.chain.faults import Fault, classify
from dstack_vpn.adapters.chain.jsonrpc import (
    EXCERPT,
    Notification,
    Request,
    Response,
    decode,
    encode,
    excerpt,
)
from dstack_vpn.errors import ChainError, EndpointError


def test_one_request_is_an_object_and_several_are_a_batch() -> None:
    one = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    assert json.loads(encode([Request(1, "eth_chainId", [])])) == one
    assert json.loads(encode([Request(1, "eth_chainId", []), Request(2, "x", [1])]))[0] == one


def test_replies_and_notifications_are_told_apart() -> None:
    text = json.dumps(
        [
            {"jsonrpc": "2.0", "id": 2, "result": None},
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no"}},
            {"jsonrpc": "2.0", "method": "eth_subscription", "params": {"subscription": "0x1", "result": {}}},
        ]
    )
    assert decode(text) == [Response(2), Response(None, fault=Fault(-32600, "no")), Notification("0x1", {})]


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>502 Bad Gateway</body></html>",
        "",
        "null",
        "7",
        '"text"',
        "[[]]",
        '{"jsonrpc":"2.0","id":1}',
        '{"jsonrpc":"2.0","id":"one","result":1}',
        '{"jsonrpc":"2.0","id":true,"result":1}',
        '{"jsonrpc":"2.0","id":1.0,"result":1}',
        '{"jsonrpc":"2.0","id":1,"error":[]}',
        '{"jsonrpc":"2.0","method":"eth_subscription"}',
        '{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":7,"result":1}}',
        '{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"7"}}',
        '{"jsonrpc":"2.0","method":"surprise","params":{}}',
        '{"jsonrpc":"2.0","id":1,"resu',
        "[" * 200_000,
        "9" * 5000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_json_rpc_is_the_endpoints_fault(text: str | bytes) -> None:
    with pytest.raises(EndpointError) as caught:
        decode(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("0x08c379a0", bytes.fromhex("08c379a0")),
        ("Reverted 0x08c379a0", bytes.fromhex("08c379a0")),
        ({"data": "0x01"}, b"\x01"),
        ({"result": "0x02"}, b"\x02"),
        ("not hex", None),
        (None, None),
        (7, None),
    ],
)
def test_revert_data_is_found_wherever_clients_put_it(data: Any, expected: bytes | None) -> None:
    text = json.dumps({"id": 1, "error": {"code": 3, "message": "execution reverted", "data": data}})
    detail = data if data == "not hex" else ""
    assert decode(text) == [Response(1, fault=Fault(3, "execution reverted", expected, detail))]


def test_an_error_may_be_a_bare_text() -> None:
    assert decode('{"id": 1, "error": "rate limited"}') == [Response(1, fault=Fault(0, "rate limited"))]


def test_an_excerpt_is_short_printable_ascii() -> None:
    said = excerpt("\x1b[31m<html>\n\n\u202e" + "x" * 10_000)
    assert said.startswith("[31m<html> x")
    assert len(said) == EXCERPT + 3
    assert said.isascii()
    assert said.isprintable()


@given(st.text() | st.binary() | jsons.map(json.dumps))
def test_only_endpoint_errors_escape_the_decoder(text: str | bytes) -> None:
    with contextlib.suppress(EndpointError):
        decode(text)


envelopes = st.fixed_dictionaries(
    {},
    optional={
        "id": jsons,
        "result": jsons,
        "error": jsons | st.fixed_dictionaries({"code": jsons, "message": jsons, "data": jsons}),
        "method": st.just("eth_subscription") | jsons,
        "params": jsons,
    },
)


@given(envelopes | st.lists(envelopes, max_size=3))
def test_only_chain_errors_escape_a_hostile_envelope(envelope: Any) -> None:
    try:
        for message in decode(json.dumps(envelope)):
            if isinstance(message, Response) and message.fault:
                assert isinstance(classify(message.fault, "eth_call", ""), ChainError)
    except EndpointError:
        pass


def test_an_id_that_comes_back_as_a_text_is_the_number_that_was_sent() -> None:
    (reply,) = decode('{"jsonrpc":"2.0","id":"7","result":"0x1"}')
    assert reply == Response(7, "0x1")
