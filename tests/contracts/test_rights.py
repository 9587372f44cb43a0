"""Tags, routes, the policy, their administrators, and the revision."""

from typing import Any

import pytest
from eth_utils.crypto import keccak
from tests.contracts.evm import ALICE, BOB, CAROL, DAVE, OWNER, ZERO, Contract, Reverted, key, view
from tests.contracts.model import MAX_ROUTES, MAX_TAGS, route
from tests.contracts.test_nodes import refused

POLICY = '{"grants": [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}]}'
LONGEST = 24_000


# -- tags ------------------------------------------------------------------------------------------


def test_tags_are_defined_in_order_and_set(minted: Contract) -> None:
    for index, name in enumerate(("gateway", "web")):
        assert minted.send("defineTag", name) == [("TagDefined", index, name)]
    assert minted.call("tags") == ("gateway", "web")
    assert minted.send("setTags", 1, 0b10) == [("NodeTagsUpdated", 1, 0b10)]
    assert view(minted, 1)["tags"] == 0b10
    assert minted.send("setTags", 1, 0) == [("NodeTagsUpdated", 1, 0)]


@pytest.mark.parametrize("name", ["", "-a", "a-", "Web", "a.b", "ü", "x" * 64])
def test_a_tag_is_a_dns_label(registry: Contract, name: str) -> None:
    assert refused(registry, "defineTag", name) == ("InvalidTag",)


def test_a_tag_is_defined_once(registry: Contract) -> None:
    registry.send("defineTag", "web")
    assert refused(registry, "defineTag", "web") == ("TagExists", "web", 0)


def test_the_257th_tag_is_refused(minted: Contract) -> None:
    for number in range(MAX_TAGS):
        minted.send("defineTag", f"t{number}")
    assert refused(minted, "defineTag", "more") == ("TooManyTags",)
    minted.send("setTags", 1, 2**MAX_TAGS - 1)
    assert view(minted, 1)["tags"] == 2**MAX_TAGS - 1


def test_tags_are_refused(minted: Contract) -> None:
    minted.send("defineTag", "web")
    assert refused(minted, "setTags", 1, 0b111) == ("UndefinedTags", 0b110)
    assert refused(minted, "setTags", 1, 1 << 255) == ("UndefinedTags", 1 << 255)
    assert refused(minted, "setTags", 1, 1, sender=ALICE) == ("NotMinter", ALICE)
    assert refused(minted, "setTags", 2, 1) == ("ERC721NonexistentToken", 2)
    minted.send("revokeNodeAccess", 1)
    assert refused(minted, "setTags", 1, 1) == ("NodeIsRevoked", 1)


# -- routes ----------------------------------------------------------------------------------------


def test_routes_are_set_and_replaced(minted: Contract) -> None:
    minted.send("addMinter", DAVE)
    for networks in (["10.0.0.0/8", "192.168.1.0/24", "::/0"], ["0.0.0.0/0"], ["10.1.2.3/32"], []):
        routes = tuple(map(route, networks))
        assert minted.send("setRoutes", 1, routes, sender=DAVE) == [("NodeRoutesUpdated", 1, routes)]
        assert view(minted, 1)["routes"] == routes


WORD = int.from_bytes(route("10.0.0.0/8"), "big")


@pytest.mark.parametrize(
    ("routes", "error"),
    [
        ([bytes(32)], ("InvalidRoute", 0)),
        ([route("10.0.0.1/8")], ("InvalidRoute", 0)),
        ([route("10.0.0.0/8"), route("fd00::1/8")], ("InvalidRoute", 1)),
        ([(WORD + 25).to_bytes(32, "big")], ("InvalidRoute", 0)),
        ([(WORD | 1 << 100).to_bytes(32, "big")], ("InvalidRoute", 0)),
        ([(WORD + (1 << 248)).to_bytes(32, "big")], ("InvalidRoute", 0)),
        ([(6 << 248 | 129).to_bytes(32, "big")], ("InvalidRoute", 0)),
        ([(6 << 248 | 1 << 136 | 128).to_bytes(32, "big")], ("InvalidRoute", 0)),
        ([route("10.0.0.0/8"), route("10.0.0.0/8")], ("RoutesNotAscending", 1)),
        ([route("10.0.0.0/8"), route("10.255.0.0/16")], ("RoutesNotAscending", 1)),
        ([route("10.255.0.0/16"), route("10.0.0.0/8")], ("RoutesNotAscending", 1)),
        ([route("0.0.0.0/0"), route("10.0.0.0/8")], ("RoutesNotAscending", 1)),
        ([route("::/0"), route("0.0.0.0/0")], ("RoutesNotAscending", 1)),
        ([route(f"10.{i}.0.0/16") for i in range(MAX_ROUTES + 1)], ("TooManyRoutes", MAX_ROUTES + 1)),
    ],
)
def test_routes_are_refused(minted: Contract, routes: list[bytes], error: tuple[Any, ...]) -> None:
    assert refused(minted, "setRoutes", 1, routes) == error
    assert view(minted, 1)["routes"] == ()


def test_only_a_minter_sets_routes(minted: Contract) -> None:
    assert refused(minted, "setRoutes", 1, [], sender=ALICE) == ("NotMinter", ALICE)
    minted.send("revokeNodeAccess", 1)
    assert refused(minted, "setRoutes", 1, []) == ("NodeIsRevoked", 1)


# -- policy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [POLICY, "p" * LONGEST, "ü€𝄞" * 7 + "a" * 31 + "ü", "\U0010ffff", "\ud7ff\ue000"]
)
def test_a_policy_is_kept_and_removed(registry: Contract, text: str) -> None:
    assert (registry.call("policy"), registry.call("policyHash")) == ("", bytes(32))
    assert registry.send("setPolicy", text) == [("PolicyUpdated", keccak(text=text))]
    assert (registry.call("policy"), registry.call("policyHash")) == (text, keccak(text=text))
    assert registry.send("setPolicy", "") == [("PolicyUpdated", bytes(32))]
    assert (registry.call("policy"), registry.call("policyHash")) == ("", bytes(32))


MALFORMED = [
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2\x41",
    b"\xe0\x9f\xbf",
    b"\xe2\x82",
    b"\xe2\x82\x41",
    b"\xed\xa0\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x9d\x84",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
]


@pytest.mark.parametrize("before", [0, 1, 31, 32, 40])
@pytest.mark.parametrize("raw", MALFORMED, ids=bytes.hex)
def test_a_policy_is_utf_8(registry: Contract, raw: bytes, before: int) -> None:
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    placeholder = b"#" * len(raw)
    data = registry.calldata("setPolicy", f"{'a' * before}{placeholder.decode()}a")
    with pytest.raises(Reverted) as caught:
        registry.raw(data.replace(placeholder, raw))
    assert caught.value.error == ("PolicyNotUTF8", before)


def test_a_policy_has_at_most_24000_bytes(registry: Contract) -> None:
    assert refused(registry, "setPolicy", "p" * (LONGEST + 1)) == ("PolicyTooLong", LONGEST + 1)


def test_a_policy_administrator_sets_the_policy_and_nothing_else(minted: Contract) -> None:
    assert minted.send("addPolicyAdministrator", CAROL) == [("PolicyAdministratorAdded", CAROL)]
    assert minted.call("policyAdministrators") == (CAROL,)
    minted.send("setPolicy", POLICY, sender=CAROL)
    assert refused(minted, "revokeNodeAccess", 1, sender=CAROL) == ("NotMinter", CAROL)
    assert minted.send("removePolicyAdministrator", CAROL) == [("PolicyAdministratorRemoved", CAROL)]
    assert refused(minted, "setPolicy", "", sender=CAROL) == ("NotPolicyAdministrator", CAROL)
    assert minted.call("policy") == POLICY


def test_changes_of_policy_administrators_are_refused(registry: Contract) -> None:
    registry.send("addPolicyAdministrator", CAROL)
    assert refused(registry, "addPolicyAdministrator", CAROL) == ("AlreadyPolicyAdministrator", CAROL)
    assert refused(registry, "addPolicyAdministrator", ZERO) == ("InvalidPolicyAdministrator",)
    assert refused(registry, "removePolicyAdministrator", BOB) == ("NotPolicyAdministrator", BOB)


def test_minters_are_enumerable(registry: Contract) -> None:
    for account in (ALICE, BOB, CAROL):
        registry.send("addMinter", account)
    registry.send("removeMinter", ALICE)
    assert set(registry.call("minters")) == {BOB, CAROL}


# -- batches and the revision ----------------------------------------------------------------------


def test_a_batch_is_one_transaction_of_the_caller(registry: Contract) -> None:
    calls = [registry.calldata("mintNodeAccess", ALICE, f"n{i}", key(i), "") for i in range(1, 21)]
    events = registry.send("multicall", calls)
    assert sum(event[0] == "NodeAccessGranted" for event in events) == len(calls)
    assert registry.call("totalSupply") == registry.call("revision") - 1 == len(calls)
    assert refused(registry, "multicall", calls[:1], sender=ALICE) == ("NotMinter", ALICE)


def test_a_batch_with_a_refused_call_changes_nothing(registry: Contract) -> None:
    calls = [registry.calldata("mintNodeAccess", ALICE, "web", key(1), "")] * 2
    assert refused(registry, "multicall", calls) == ("NodeIdTaken", "web", 1)
    assert registry.call("totalSupply") == 0


def test_the_revision_rises_with_every_change(registry: Contract) -> None:
    """The model checks the rest."""
    assert registry.call("revision") == 1, "the first owner is a change"
    registry.send("mintNodeAccess", ALICE, "web", key(1), "")
    registry.send("updatePublicKey", 1, key(2), sender=ALICE)
    assert registry.call("revision") == 3
    registry.send("approve", BOB, 1, sender=ALICE)
    assert registry.call("revision") == 3, "an approval changes no access"
    registry.send("transferOwnership", ALICE, sender=OWNER)
    registry.send("acceptOwnership", sender=ALICE)
    assert registry.call("revision") == 5
