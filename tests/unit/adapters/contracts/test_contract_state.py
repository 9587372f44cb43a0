"""Decoding of the contract's own state and events, encoded by eth-abi."""

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.adapters.contracts.oracle import AT

from dstack_vpn.adapters.contracts import AccessRegistry, AccessRegistryV1, DstackAccessNft, load_artifact
from dstack_vpn.adapters.contracts.contract_state import parse_policy, parse_state
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import (
    InvitationCancelled,
    InvitationRedeemed,
    OwnerOffered,
    OwnerUpdated,
    PauseUpdated,
    PolicyRead,
    PolicyUpdated,
    RegistryEvent,
    RoleUpdated,
    TagDefined,
)
from dstack_vpn.core.model import ZERO_ADDRESS
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import Log

OWNER, OTHER = "0x" + "ab" * 20, "0x" + "0c" * 20
WORD, OWNER_WORD, OTHER_WORD = "0x" + "5e" * 32, "0x" + "0" * 24 + OWNER[2:], "0x" + "0" * 24 + OTHER[2:]
ZERO_WORD = "0x" + "0" * 64


def state(**changes: Any) -> ContractState:
    fields: dict[str, tuple[str, Any]] = {
        "tags": ("string[]", ["gateway", "web"]),
        "policy_hash": ("bytes32", bytes.fromhex(WORD[2:])),
        "minters": ("address[]", [OWNER, OTHER]),
        "policy_administrators": ("address[]", [OTHER]),
        "owner": ("address", OWNER),
        "pending_owner": ("address", ZERO_ADDRESS),
        "paused": ("bool", True),
    }
    values = [(kind, changes.get(name, value)) for name, (kind, value) in fields.items()]
    return parse_state([encode([kind], [value]) for kind, value in values])


def test_the_state() -> None:
    assert state() == ContractState(
        is_read=True,
        tag_names=("gateway", "web"),
        policy=Policy(WORD),
        minters=(OTHER, OWNER),
        policy_administrators=(OTHER,),
        owner=OWNER,
        paused=True,
    )


def test_without_a_policy_and_with_an_offer() -> None:
    found = state(policy_hash=bytes(32), pending_owner=OTHER, paused=False)
    assert (found.policy, found.pending_owner, found.paused) == (None, OTHER, False)


@pytest.mark.parametrize(
    "tags", [["a\nb"], ["Web"], [""], ["web", "web"], ["a" * 64], [f"t{i}" for i in range(257)], ["\u2603"]]
)
def test_tags_that_the_contract_refuses_are_a_forged_reply(tags: list[str]) -> None:
    with pytest.raises(FormatError):
        state(tags=tags)


def test_a_read_that_reverts_is_refused() -> None:
    with pytest.raises(FormatError, match="reverts"):
        parse_state([None] * 7)
    with pytest.raises(FormatError, match="reverts"):
        parse_policy([None, None])


def policy(text: bytes, hash_: bytes | None = None) -> PolicyRead:
    return parse_policy([keccak(text) if hash_ is None else hash_, encode(["bytes"], [text])])


@pytest.mark.parametrize("text", ["allow all", "\N{SNOWMAN}\N{ESCAPE}[2J\0\r\n", "x" * 24_000])
def test_a_policy(text: str) -> None:
    raw = text.encode()
    assert policy(raw) == PolicyRead(Policy("0x" + keccak(raw).hex(), text=text))


def test_no_policy() -> None:
    assert policy(b"", bytes(32)) == PolicyRead(None)


@pytest.mark.parametrize(
    ("text", "hash_", "problem"),
    [
        (b"allow all", keccak(b"deny all"), "does not have the policy's hash"),
        (b"", keccak(b"deny all"), "does not have the policy's hash"),
        (b"allow all", bytes(32), "without a hash"),
        (b"x" * 24_001, None, "24001 bytes"),
        (b"\xff", None, "not UTF-8"),
        (b"\xed\xa0\x80", None, "not UTF-8"),
    ],
)
def test_a_policy_that_the_contract_can_not_have(text: bytes, hash_: bytes | None, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        policy(text, hash_)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=200)), min_size=7, max_size=7))
def test_only_format_errors_escape(replies: list[bytes | None]) -> None:
    for parse, given_replies in ((parse_state, replies), (parse_policy, replies[:2])):
        try:
            parse(given_replies)
        except FormatError:
            continue


TOPICS = {text.partition("(")[0]: topic for text, topic in load_artifact().events.items()}
FIVE = "0x" + f"{5:064x}"
LOGS: list[tuple[str, tuple[str, ...], bytes, RegistryEvent]] = [
    ("TagDefined", (FIVE,), encode(["string"], ["web"]), TagDefined(5, "web")),
    ("PolicyUpdated", (), bytes.fromhex(WORD[2:]), PolicyUpdated(WORD)),
    ("PolicyUpdated", (), bytes(32), PolicyUpdated(None)),
    ("MinterAdded", (OWNER_WORD,), b"", RoleUpdated("minter", OWNER, True)),
    ("MinterRemoved", (OWNER_WORD,), b"", RoleUpdated("minter", OWNER, False)),
    ("PolicyAdministratorAdded", (OWNER_WORD,), b"", RoleUpdated("policy administrator", OWNER, True)),
    ("PolicyAdministratorRemoved", (OWNER_WORD,), b"", RoleUpdated("policy administrator", OWNER, False)),
    ("OwnershipTransferInitiated", (OWNER_WORD, OTHER_WORD), b"", OwnerOffered(OTHER)),
    ("OwnershipTransferInitiated", (OWNER_WORD, ZERO_WORD), b"", OwnerOffered(None)),
    ("OwnershipTransferred", (OWNER_WORD, OTHER_WORD), b"", OwnerUpdated(OTHER)),
    ("Paused", (), encode(["address"], [OWNER]), PauseUpdated(True)),
    ("Unpaused", (), encode(["address"], [OWNER]), PauseUpdated(False)),
    ("InvitationRedeemed", (WORD, FIVE), b"", InvitationRedeemed(WORD, 5)),
    ("InvitationCancelled", (WORD,), b"", InvitationCancelled(WORD)),
]


def log(name: str, topics: tuple[str, ...], data: bytes) -> Log:
    return Log((TOPICS[name], *topics), data, AT.number, AT.hash, 0, removed=False)


@pytest.mark.parametrize(("name", "topics", "data", "event"), LOGS)
def test_events(name: str, topics: tuple[str, ...], data: bytes, event: RegistryEvent) -> None:
    registry = AccessRegistry()
    assert registry.decode(log(name, topics, data)) == event
    with pytest.raises(FormatError):
        registry.decode(log(name, (*topics, WORD), data))


@pytest.mark.parametrize("name", ["web!", "", "a" * 64])
def test_a_tag_that_the_contract_refuses_is_a_forged_log(name: str) -> None:
    with pytest.raises(FormatError):
        AccessRegistry().decode(log("TagDefined", (FIVE,), encode(["string"], [name])))


def test_the_257th_tag_is_a_forged_log() -> None:
    with pytest.raises(FormatError):
        AccessRegistry().decode(log("TagDefined", (f"0x{256:064x}",), encode(["string"], ["web"])))


@pytest.mark.parametrize("contract", [AccessRegistryV1(), DstackAccessNft()])
def test_the_other_contracts_have_no_state_of_their_own(contract: AccessRegistryV1 | DstackAccessNft) -> None:
    assert (contract.contract_calls(), contract.policy_calls()) == ((), ())
    assert not contract.topics & {TOPICS[name] for name, *_ in LOGS}
