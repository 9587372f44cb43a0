import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.adapters.chain.hostile import jsons

from dstack_vpn.adapters.chain import fields
from dstack_vpn.errors import EndpointError

HASH = "0x" + "Ab" * 32

headers = st.fixed_dictionaries({}, optional={k: jsons | st.just("0x1") | st.just(HASH) for k in
    ("number", "hash", "parentHash", "timestamp")})  # fmt: skip
logs = st.fixed_dictionaries({}, optional={k: jsons | st.just("0x1") | st.just(HASH) for k in
    ("address", "topics", "data", "blockNumber", "blockHash", "logIndex", "removed")})  # fmt: skip


@given(jsons | headers | logs)
def test_only_endpoint_errors_escape_the_parsers(value: Any) -> None:
    parsers = (fields.parse_header, fields.parse_log, fields.log_address, fields.chain_id)
    for parse in (*parsers, fields.storage_root):
        with contextlib.suppress(EndpointError):
            parse(value)
    for typed in (fields.quantity, fields.hash32, fields.data, fields.mapping, fields.sequence):
        with contextlib.suppress(EndpointError):
            typed(value, "thing")


def test_a_storage_root_is_read_in_lower_case() -> None:
    assert fields.storage_root({"storageHash": HASH, "nonce": "0x1"}) == HASH.lower()


@pytest.mark.parametrize(
    "value", [None, [], HASH, {}, {"storageHash": None}, {"storageHash": HASH[:-1]}, {"storageHash": 5}]
)
def test_a_malformed_proof_is_an_error_of_the_endpoint(value: Any) -> None:
    with pytest.raises(EndpointError, match=r"proof|storage hash"):
        fields.storage_root(value)


def log(**changes: Any) -> dict[str, Any]:
    return {
        "address": "0x" + "Cd" * 20,
        "topics": [HASH],
        "data": "0x00ff",
        "blockNumber": "0x10",
        "blockHash": HASH,
        "logIndex": "0x0",
        **changes,
    }


def test_a_log_is_read_in_lower_case() -> None:
    parsed = fields.parse_log(log())
    assert (parsed.block_hash, parsed.topics, parsed.data) == (HASH.lower(), (HASH.lower(),), b"\x00\xff")
    assert (parsed.block_number, parsed.log_index, parsed.removed) == (16, 0, False)
    assert fields.log_address(log()) == "0x" + "cd" * 20
    assert fields.parse_log(log(removed=True)).removed
    assert not fields.parse_log(log(removed=None)).removed


@pytest.mark.parametrize("value", ["0x10", "0X10", "0x0010", "0x" + "0" * 62 + "10", 16])
def test_accepted_forms_of_a_quantity(value: object) -> None:
    assert fields.quantity(value, "number") == 16
    assert fields.parse_log(log(blockNumber=value, logIndex=value)).block_number == 16
    assert fields.chain_id(value) == 16
    assert fields.chain_id("16") == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "0x0"},
        {"data": "0x0 0 "},
        {"data": "00"},
        {"data": None},
        {"topics": [HASH] * 5},
        {"topics": ["0x01"]},
        {"topics": HASH},
        {"blockNumber": None},
        {"blockNumber": -16},
        {"blockNumber": 16.0},
        {"blockNumber": True},
        {"blockNumber": "0x" + "f" * 17},
        {"blockNumber": "0x-1"},
        {"blockHash": None},
        {"logIndex": "0x"},
        {"removed": "false"},
    ],
)
def test_a_malformed_log_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EndpointError):
        fields.parse_log(log(**changes))


def test_a_pending_block_without_number_and_hash_is_refused() -> None:
    with pytest.raises(EndpointError, match="block number"):
        fields.parse_header({"number": None, "hash": None, "parentHash": HASH, "timestamp": "0x1"})
