"""Decoding of both contracts' logs, encoded by eth-abi, and of hostile logs."""

import base64
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.adapters.contracts.oracle import ZERO, event_log, log

from dstack_vpn.adapters.contracts import ABIS, AccessRegistry, DstackAccessNft
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    OwnerKeyUpdated,
    Revoked,
    Transferred,
)
from dstack_vpn.core.model import Endpoint, Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import RegistryAbi

OURS, DEPLOYED = AccessRegistry(), DstackAccessNft()
both = pytest.mark.parametrize("abi", [OURS, DEPLOYED], ids=lambda abi: abi.name)

tokens = st.integers(0, 2**256 - 1)
accounts = st.binary(min_size=20, max_size=20).filter(any).map(lambda raw: "0x" + raw.hex())
keys = st.binary(min_size=32, max_size=32).filter(any).map(PublicKey)
names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@both
@given(token=tokens, name=names, owner=accounts, key=keys)
def test_granted(abi: RegistryAbi, token: int, name: str, owner: str, key: PublicKey) -> None:
    decoded = abi.decode(event_log("NodeAccessGranted", token, name, owner, str(key)))
    assert decoded == Granted(token, owner, name, key)


@both
@given(token=tokens, name=st.text(st.characters(exclude_categories=["Cs"])))
def test_revoked(abi: RegistryAbi, token: int, name: str) -> None:
    assert abi.decode(event_log("NodeAccessRevoked", token, name)) == Revoked(token)


@both
@given(token=tokens, sender=accounts, recipient=accounts)
def test_transferred(abi: RegistryAbi, token: int, sender: str, recipient: str) -> None:
    expected = Transferred(token, recipient)
    assert abi.decode(event_log("NodeAccessTransferred", token, sender, recipient)) == expected
    assert abi.decode(event_log("Transfer", sender, recipient, token)) == expected


@both
@given(token=tokens, account=accounts)
def test_mint_and_burn(abi: RegistryAbi, token: int, account: str) -> None:
    assert abi.decode(event_log("Transfer", ZERO, account, token)) is None
    assert abi.decode(event_log("Transfer", account, ZERO, token)) == Revoked(token)


@given(token=tokens, key=keys, end=st.integers(0, 2**64 - 1), port=st.integers(1, 65535))
def test_ours(token: int, key: PublicKey, end: int, port: int) -> None:
    assert OURS.decode(event_log("NodeKeyUpdated", token, str(key))) == KeyUpdated(token, key)
    assert OURS.decode(event_log("NodeExpiryUpdated", token, end)) == ExpiryUpdated(token, end)
    endpoint = OURS.decode(event_log("NodeEndpointUpdated", token, f"vpn.example.org:{port}"))
    assert endpoint == EndpointUpdated(token, PeerEndpoint(Endpoint("vpn.example.org", port)))


def test_a_cleared_endpoint() -> None:
    assert OURS.decode(event_log("NodeEndpointUpdated", 1, "")) == EndpointUpdated(1, None)


@given(owner=accounts, key=keys)
def test_deployed(owner: str, key: PublicKey) -> None:
    decoded = DEPLOYED.decode(event_log("PublicKeyUpdated", owner, str(key)))
    assert decoded == OwnerKeyUpdated(owner, key)
    assert DEPLOYED.decode(event_log("PublicKeyUpdated", owner, "")) == OwnerKeyUpdated(owner, None)


@both
def test_other_events_mean_nothing(abi: RegistryAbi) -> None:
    assert abi.decode(event_log("ApprovalForAll", "0x" + "1" * 40, "0x" + "2" * 40, True)) is None
    assert abi.decode(log((), b"")) is None


def test_ours_leaves_out_the_event_without_a_token() -> None:
    assert OURS.decode(event_log("PublicKeyUpdated", "0x" + "1" * 40, "")) is None


def test_what_is_read_again() -> None:
    assert OURS.rereads == {Granted}
    assert DEPLOYED.rereads == {Granted, Revoked, Transferred, OwnerKeyUpdated}


# -- hostile logs ----------------------------------------------------------------------------------

KEY = base64.b64encode(bytes(range(32))).decode()
HOSTILE = [
    KEY + "\n",
    "\n" + KEY,
    KEY[:-1] + "\x00",
    KEY[:-2] + "B=",
    "A" * 43 + "=",
    "x\n[Peer]\nAllowedIPs = 0.0.0.0/0",
    "../../etc/passwd",
    "$(reboot)",
    "é",
    "<script>",
    "x" * 1_000_000,
]


@both
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_fields_become_malformed_in_our_own_words(abi: RegistryAbi, text: str) -> None:
    event = abi.decode(event_log("NodeAccessGranted", 1, text, "0x" + "1" * 40, text))
    assert isinstance(event, Granted)
    for value in (event.public_key, event.node_id):
        if value != text:  # some are valid node ids
            assert isinstance(value, Malformed)
            assert text[:100] not in value.problem
            assert len(value.problem) < 100
    assert isinstance(event.public_key, Malformed)


@both
def test_text_that_is_no_text(abi: RegistryAbi) -> None:
    good = event_log("NodeAccessGranted", 1, "web", "0x" + "1" * 40, KEY)
    event = abi.decode(log(good.topics, good.data.replace(b"web", b"\xff\xfe\xfd")))
    assert isinstance(event, Granted)
    assert event.node_id == Malformed("node id: not plain ASCII")


@pytest.mark.parametrize("text", ["http://x.org:1", "127.0.0.1:1", "localhost:1", "a:0", "a b:1", "x" * 300])
def test_hostile_endpoints(text: str) -> None:
    event = OURS.decode(event_log("NodeEndpointUpdated", 1, text))
    assert isinstance(event, EndpointUpdated)
    assert isinstance(event.endpoint, Malformed)


EVENTS: dict[str, tuple[Any, ...]] = {
    "NodeAccessGranted": (1, "web", "0x" + "1" * 40, KEY),
    "NodeAccessTransferred": (1, "0x" + "1" * 40, "0x" + "2" * 40),
    "NodeKeyUpdated": (1, KEY),
    "NodeEndpointUpdated": (1, "a:1"),
    "NodeExpiryUpdated": (1, 5),
    "Transfer": ("0x" + "1" * 40, "0x" + "2" * 40, 1),
}


@pytest.mark.parametrize("name", EVENTS)
def test_missing_topics(name: str) -> None:
    good = event_log(name, *EVENTS[name])
    for topics in (good.topics[:-1], (*good.topics, good.topics[-1])):
        with pytest.raises(FormatError, match="topics"):
            OURS.decode(log(topics, good.data))


@pytest.mark.parametrize("name", [name for name in EVENTS if "Transfer" not in name])
def test_data_cut_anywhere(name: str) -> None:
    good = event_log(name, *EVENTS[name])
    for end in range(0, len(good.data) - 31, 7):
        with pytest.raises(FormatError):
            OURS.decode(log(good.topics, good.data[:end]))


topics = st.sampled_from(sorted(OURS.topics | DEPLOYED.topics))
words = st.binary(min_size=32, max_size=32) | st.integers(0, 200).map(lambda n: n.to_bytes(32, "big"))


@given(topics, st.lists(words, max_size=3), st.lists(words, max_size=8).map(b"".join) | st.binary())
def test_only_format_errors_escape(topic: str, more: list[bytes], data: bytes) -> None:
    raw = log((topic, *("0x" + x.hex() for x in more)), data)
    for abi in ABIS.values():
        with contextlib.suppress(FormatError):
            abi.decode(raw)
