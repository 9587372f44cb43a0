"""The checks of node ids, keys, endpoints and token URIs, compared with regular expressions."""

import base64
import re
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.contracts.evm import ALICE, OWNER, Chain, Contract, Reverted, key
from tests.contracts.test_nodes import refused

from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

NODE_ID = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
ENDPOINT = re.compile(rb"[!-~]{0,262}")


@pytest.fixture(scope="module")
def shared() -> Contract:
    """A registry with Alice's node. All changes of it are undone."""
    registry = Chain().deploy("AccessRegistry", OWNER)
    registry.send("mintNodeAccess", ALICE, "first", key(1), "")
    return registry


def outcome(contract: Contract, function: str, *args: object, sender: str) -> str:
    """Return the name of the error, or "" on success; undo the change."""
    checkpoint = contract.chain.evm.snapshot()
    try:
        contract.raw(contract.calldata(function, *args), sender)
    except Reverted as refusal:
        return str(refusal.error[0])
    finally:
        contract.chain.evm.revert(checkpoint)
    return ""


near_misses = st.text(st.sampled_from("ab09-_.AZ/ \n\"'é{`:"), max_size=66)


@settings(max_examples=400)
@given(near_misses | st.from_regex(NODE_ID.pattern.decode(), fullmatch=True))
@example("a" * 63)
@example("a" * 64)
@example("-a")
@example("a-")
@example("")
@example("A")
@example("web\n")
def test_node_ids(shared: Contract, node_id: str) -> None:
    if node_id == "first":
        return
    fits = NODE_ID.fullmatch(node_id.encode()) is not None
    result = outcome(shared, "mintNodeAccess", ALICE, node_id, key(2), "", sender=OWNER)
    assert result == ("" if fits else "InvalidNodeId")


def is_key(raw: str) -> bool:
    try:
        PublicKey.parse(raw)
    except FormatError:
        return False
    return True


keys = st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode())


@settings(max_examples=400)
@given(keys, st.integers(0, 43), st.characters(codec="ascii"))
def test_keys(shared: Contract, valid: str, at: int, replacement: str) -> None:
    for candidate in (valid, valid[:at] + replacement + valid[at + 1 :]):
        if candidate == key(1):
            continue
        result = outcome(shared, "updatePublicKey", 1, candidate, sender=ALICE)
        assert result == ("" if is_key(candidate) else "InvalidPublicKey")


@pytest.mark.parametrize(
    "candidate",
    [
        "",
        "A" * 43 + "=",
        key(2) + "\n",
        key(2)[:-1],
        key(2) + "=",
        key(2)[:-1] + "A",
        "é" * 22,
        "_" * 43 + "=",
    ],
)
def test_no_keys(shared: Contract, candidate: str) -> None:
    assert refused(shared, "updatePublicKey", 1, candidate, sender=ALICE) == ("InvalidPublicKey",)
    assert refused(shared, "mintNodeAccess", ALICE, "x", candidate, "") == ("InvalidPublicKey",)


@pytest.mark.parametrize("last", string.ascii_letters + string.digits + "+/")
def test_the_last_character_carries_four_bits(shared: Contract, last: str) -> None:
    candidate = key(2)[:42] + last + "="
    result = outcome(shared, "updatePublicKey", 1, candidate, sender=ALICE)
    assert (result == "InvalidPublicKey") is not is_key(candidate)


@settings(max_examples=200)
@given(keys)
def test_a_key_comes_back_as_it_went_in(shared: Contract, candidate: str) -> None:
    if not is_key(candidate) or candidate == key(1):
        return
    checkpoint = shared.chain.evm.snapshot()
    shared.send("updatePublicKey", 1, candidate, sender=ALICE)
    assert shared.call("getPublicKeyByTokenId", 1) == candidate
    shared.chain.evm.revert(checkpoint)


@settings(max_examples=300)
@given(st.text(st.characters(max_codepoint=0xFF), max_size=20) | st.just("x" * 262) | st.just("x" * 263))
@example("host:1\n")
@example("a b")
@example("\x7f")
@example("é")
def test_endpoints(shared: Contract, endpoint: str) -> None:
    fits = ENDPOINT.fullmatch(endpoint.encode()) is not None
    result = outcome(shared, "setEndpoint", 1, endpoint, sender=ALICE)
    assert result == ("" if fits else "InvalidEndpoint")


def test_token_uris(shared: Contract) -> None:
    assert outcome(shared, "mintNodeAccess", ALICE, "x", key(2), "u" * 2048, sender=OWNER) == ""
    error = refused(shared, "mintNodeAccess", ALICE, "x", key(2), "u" * 2049)
    assert error == ("TokenURITooLong", 2049)
