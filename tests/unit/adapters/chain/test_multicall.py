import contextlib

import pytest
from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.chain.multicall import decode_aggregate3, encode_aggregate3
from dstack_vpn.errors import EndpointError


@given(st.lists(st.none() | st.binary(max_size=100), max_size=5), st.binary(max_size=100))
def test_multicall_round_trip(results: list[bytes | None], call: bytes) -> None:
    target = "0x" + "cd" * 20
    (sent,) = abi_decode(["(address,bool,bytes)[]"], encode_aggregate3(target, [call] * len(results))[4:])
    assert sent == ((target, True, call),) * len(results)
    reply = abi_encode(["(bool,bytes)[]"], [[(r is not None, r or b"") for r in results]])
    assert decode_aggregate3(reply, len(results)) == results


@given(st.binary(max_size=400), st.integers(0, 5))
def test_only_endpoint_errors_escape_multicall(reply: bytes, expected: int) -> None:
    with contextlib.suppress(EndpointError):
        assert len(decode_aggregate3(reply, expected)) == expected


def test_a_multicall_answer_that_contains_itself_is_refused() -> None:
    word = (32).to_bytes(32, "big")
    offset, shared = (32 * 50).to_bytes(32, "big"), (1).to_bytes(32, "big") + (64).to_bytes(32, "big")
    bomb = (
        word + (50).to_bytes(32, "big") + offset * 50 + shared + (10_000).to_bytes(32, "big") + bytes(10_000)
    )
    with pytest.raises(EndpointError, match="overlap"):
        decode_aggregate3(bomb, 50)
