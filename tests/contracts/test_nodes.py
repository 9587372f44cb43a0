"""The life cycle of a node: mint, key, endpoint, expiry, transfer, revocation."""

import pytest
from tests.contracts.evm import ALICE, BOB, CAROL, OWNER, START, ZERO, Contract, Reverted, key, view
from tests.contracts.model import route


def refused(contract: Contract, function: str, *args: object, sender: str = OWNER) -> tuple[object, ...]:
    with pytest.raises(Reverted) as caught:
        contract.send(function, *args, sender=sender)
    return caught.value.error


# -- mint ------------------------------------------------------------------------------------------


def test_mint(registry: Contract) -> None:
    assert registry.send("mintNodeAccess", ALICE, "web", key(1), "ipfs://x") == [
        ("Transfer", ZERO, ALICE, 1),
        ("NodeAccessGranted", 1, "web", ALICE, key(1)),
    ]
    assert view(registry, 1) == {
        "tokenId": 1,
        "owner": ALICE,
        "nodeId": "web",
        "wireguardPublicKey": key(1),
        "endpoint": "",
        "tokenURI": "ipfs://x",
        "createdAt": START,
        "keyUpdatedAtBlock": registry.chain.number,
        "expiresAt": 0,
        "active": True,
        "awaitingKey": False,
        "tags": 0,
        "routes": (),
    }
    assert registry.call("getNodeAccess", 1) == ("web", key(1), START, True)
    assert registry.call("getTokenIdByNodeId", "web") == 1
    assert registry.call("getPublicKeyByTokenId", 1) == registry.call("getPublicKeyByOwner", ALICE) == key(1)
    assert registry.call("tokenURI", 1) == "ipfs://x"
    assert registry.call("ownerOf", 1) == ALICE
    assert registry.call("balanceOf", ALICE) == 1


def test_mint_returns_the_token_id(registry: Contract) -> None:
    for expected in (1, 2):
        data = registry.calldata("mintNodeAccess", ALICE, f"n{expected}", key(expected), "")
        assert int.from_bytes(registry.raw(data), "big") == expected


def test_mint_to_the_zero_address(registry: Contract) -> None:
    assert refused(registry, "mintNodeAccess", ZERO, "web", key(1), "") == ("ERC721InvalidReceiver", ZERO)


def test_a_node_id_is_unique(minted: Contract) -> None:
    assert refused(minted, "mintNodeAccess", BOB, "web", key(2), "") == ("NodeIdTaken", "web", 1)


def test_a_copied_key_does_not_keep_its_owner_out(minted: Contract) -> None:
    """An account that sees a key in a pending transaction can register it first."""
    minted.send("mintNodeAccess", BOB, "copy", key(2), "")
    minted.send("mintNodeAccess", CAROL, "owner", key(2), "")
    minted.send("updatePublicKey", 1, key(2), sender=ALICE)
    assert [minted.call("getPublicKeyByTokenId", token) for token in (1, 2, 3)] == [key(2)] * 3


def test_a_refused_mint_leaves_nothing_behind(minted: Contract) -> None:
    refused(minted, "mintNodeAccess", BOB, "db", "short", "")
    minted.send("mintNodeAccess", BOB, "db", key(2), "")
    assert minted.call("getTokenIdByNodeId", "db") == minted.call("totalSupply") == 2


def test_only_minters_mint(registry: Contract) -> None:
    assert refused(registry, "mintNodeAccess", ALICE, "web", key(1), "", sender=ALICE) == ("NotMinter", ALICE)


# -- key -------------------------------------------------------------------------------------------


def test_update_key(minted: Contract) -> None:
    minted.chain.mine()
    assert minted.send("updatePublicKey", 1, key(2), sender=ALICE) == [
        ("NodeKeyUpdated", 1, key(2)),
        ("PublicKeyUpdated", ALICE, key(2)),
    ]
    assert view(minted, 1)["wireguardPublicKey"] == key(2)
    assert view(minted, 1)["keyUpdatedAtBlock"] == minted.chain.number


@pytest.mark.parametrize(("function", "value"), [("updatePublicKey", key(2)), ("setEndpoint", "a:1")])
class TestHolderOnly:
    def test_not_by_another(self, minted: Contract, function: str, value: str) -> None:
        for sender in (OWNER, BOB):
            assert refused(minted, function, 1, value, sender=sender) == ("NotHolder", 1, sender)

    def test_not_by_an_approved_account(self, minted: Contract, function: str, value: str) -> None:
        assert minted.send("approve", BOB, 1, sender=ALICE) == [("Approval", ALICE, BOB, 1)]
        assert refused(minted, function, 1, value, sender=BOB) == ("NotHolder", 1, BOB)

    def test_not_of_an_unknown_token(self, minted: Contract, function: str, value: str) -> None:
        assert refused(minted, function, 2, value, sender=ALICE) == ("ERC721NonexistentToken", 2)

    def test_not_of_a_revoked_node(self, minted: Contract, function: str, value: str) -> None:
        minted.send("revokeNodeAccess", 1)
        assert refused(minted, function, 1, value, sender=ALICE) == ("NodeIsRevoked", 1)


# -- endpoint --------------------------------------------------------------------------------------


def test_set_and_clear_endpoint(minted: Contract) -> None:
    for endpoint in ("vpn.example.org:51820", "x" * 262, ""):
        expected = [("NodeEndpointUpdated", 1, endpoint)]
        assert minted.send("setEndpoint", 1, endpoint, sender=ALICE) == expected
        assert view(minted, 1)["endpoint"] == endpoint


# -- expiry ----------------------------------------------------------------------------------------


def test_expiry_ends_access_by_itself(minted: Contract) -> None:
    end = START + 100
    assert minted.send("setExpiry", 1, end) == [("NodeExpiryUpdated", 1, end)]
    assert minted.call("expiresAt", 1) == end
    minted.chain.mine(100)
    assert minted.call("hasNodeAccess", ALICE, "web") is True
    minted.chain.mine(1)
    assert minted.call("hasNodeAccess", ALICE, "web") is minted.call("verifyAccess", ALICE, "web") is False
    assert minted.call("getNodeAccess", 1)[3] is False
    assert minted.call("getPublicKeyByOwner", ALICE) == ""
    assert view(minted, 1)["active"] is True, "the reader's clock decides"


def test_an_expired_node_keeps_its_id_and_can_be_extended(minted: Contract) -> None:
    minted.send("setExpiry", 1, START)
    minted.chain.mine(10)
    assert refused(minted, "mintNodeAccess", BOB, "web", key(2), "")[0] == "NodeIdTaken"
    assert minted.send("setExpiry", 1, 0) == [("NodeExpiryUpdated", 1, 0)]
    assert minted.call("hasNodeAccess", ALICE, "web") is True


def test_expiry_is_refused(minted: Contract) -> None:
    assert refused(minted, "setExpiry", 1, START - 1) == ("ExpiryInPast", START - 1, START)
    assert refused(minted, "setExpiry", 1, START, sender=ALICE) == ("NotMinter", ALICE)
    assert refused(minted, "setExpiry", 2, START) == ("ERC721NonexistentToken", 2)
    minted.send("revokeNodeAccess", 1)
    assert refused(minted, "setExpiry", 1, START) == ("NodeIsRevoked", 1)


# -- transfer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "extra"),
    [
        ("transferFrom", ()),
        ("safeTransferFrom(address,address,uint256)", ()),
        ("safeTransferFrom(address,address,uint256,bytes)", (b"data",)),
    ],
)
def test_transfer(minted: Contract, function: str, extra: tuple[bytes, ...]) -> None:
    minted.send("setEndpoint", 1, "a:1", sender=ALICE)
    minted.send("defineTag", "gateway")
    minted.send("setTags", 1, 1)
    minted.send("setRoutes", 1, [route("10.0.0.0/8")])
    assert minted.send(function, ALICE, BOB, 1, *extra, sender=ALICE) == [
        ("Transfer", ALICE, BOB, 1),
        ("NodeAccessTransferred", 1, ALICE, BOB),
    ]
    node = view(minted, 1)
    assert (node["owner"], node["nodeId"]) == (BOB, "web")
    assert (node["wireguardPublicKey"], node["endpoint"], node["keyUpdatedAtBlock"]) == ("", "", 0)
    assert (node["active"], node["awaitingKey"]) == (False, True)
    assert (node["tags"], node["routes"]) == (0, ())
    assert minted.call("hasNodeAccess", BOB, "web") is minted.call("hasNodeAccess", ALICE, "web") is False
    assert minted.call("getPublicKeyByTokenId", 1) == minted.call("getPublicKeyByOwner", BOB) == ""


def test_a_transferred_node_is_active_with_its_new_holders_key(minted: Contract) -> None:
    minted.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    assert refused(minted, "updatePublicKey", 1, key(2), sender=ALICE) == ("NotHolder", 1, ALICE)
    minted.send("updatePublicKey", 1, key(2), sender=BOB)
    node = view(minted, 1)
    assert (node["active"], node["awaitingKey"], node["wireguardPublicKey"]) == (True, False, key(2))
    assert minted.call("hasNodeAccess", BOB, "web") is True


def test_a_transfer_keeps_the_node_id(minted: Contract) -> None:
    minted.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    assert refused(minted, "mintNodeAccess", ALICE, "web", key(1), "") == ("NodeIdTaken", "web", 1)
    minted.send("mintNodeAccess", ALICE, "db", key(1), "")


def test_a_transfer_to_oneself_clears_the_key_as_well(minted: Contract) -> None:
    minted.send("transferFrom", ALICE, ALICE, 1, sender=ALICE)
    assert view(minted, 1)["awaitingKey"] is True
    assert minted.call("tokenOfOwnerByIndex", ALICE, 0) == 1


def test_a_transfer_keeps_the_expiry(minted: Contract) -> None:
    minted.send("setExpiry", 1, START + 5)
    minted.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    assert minted.call("expiresAt", 1) == START + 5


def test_an_operator_transfers(minted: Contract) -> None:
    assert minted.send("setApprovalForAll", CAROL, True, sender=ALICE) == [
        ("ApprovalForAll", ALICE, CAROL, True)
    ]
    assert minted.call("isApprovedForAll", ALICE, CAROL) is True
    minted.send("transferFrom", ALICE, BOB, 1, sender=CAROL)
    assert minted.call("ownerOf", 1) == BOB
    assert minted.call("getApproved", 1) == ZERO


def test_transfers_are_refused(minted: Contract) -> None:
    def transfer(sender: str, *args: object) -> tuple[object, ...]:
        return refused(minted, "transferFrom", *args, sender=sender)

    assert transfer(BOB, ALICE, BOB, 1) == ("ERC721InsufficientApproval", BOB, 1)
    assert transfer(ALICE, BOB, CAROL, 1) == ("ERC721IncorrectOwner", BOB, 1, ALICE)
    assert transfer(ALICE, ALICE, ZERO, 1) == ("ERC721InvalidReceiver", ZERO)
    assert transfer(ALICE, ALICE, BOB, 2) == ("ERC721NonexistentToken", 2)
    minted.send("revokeNodeAccess", 1)
    assert transfer(ALICE, ALICE, BOB, 1) == ("NodeIsRevoked", 1)


def test_a_safe_transfer_to_a_contract_that_takes_no_tokens_is_refused(minted: Contract) -> None:
    other = minted.chain.deploy("Multicall3").address
    error = refused(minted, "safeTransferFrom(address,address,uint256)", ALICE, other, 1, sender=ALICE)
    assert error == ("ERC721InvalidReceiver", other.lower())


def test_approvals_are_refused(minted: Contract) -> None:
    assert refused(minted, "approve", CAROL, 1, sender=BOB) == ("ERC721InvalidApprover", BOB)
    error = refused(minted, "setApprovalForAll", ZERO, True, sender=ALICE)
    assert error == ("ERC721InvalidOperator", ZERO)


# -- revoke ----------------------------------------------------------------------------------------


def test_revoke(minted: Contract) -> None:
    minted.send("setEndpoint", 1, "a:1", sender=ALICE)
    assert minted.send("revokeNodeAccess", 1) == [("NodeAccessRevoked", 1, "web")]
    node = view(minted, 1)
    assert (node["active"], node["awaitingKey"]) == (False, False)
    assert (node["owner"], node["nodeId"], node["wireguardPublicKey"]) == (ALICE, "web", key(1)), "history"
    assert minted.call("hasNodeAccess", ALICE, "web") is False
    assert minted.call("getPublicKeyByOwner", ALICE) == ""
    assert minted.call("totalSupply") == 1


def test_a_revoked_nodes_id_is_free(minted: Contract) -> None:
    minted.send("revokeNodeAccess", 1)
    minted.send("mintNodeAccess", BOB, "web", key(1), "")
    assert minted.call("getTokenIdByNodeId", "web") == 2
    assert minted.call("hasNodeAccess", BOB, "web") is True


def test_a_node_that_awaits_a_key_can_be_revoked(minted: Contract) -> None:
    minted.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    assert minted.send("revokeNodeAccess", 1) == [("NodeAccessRevoked", 1, "web")]
    assert view(minted, 1)["awaitingKey"] is False


def test_revoke_is_refused(minted: Contract) -> None:
    assert refused(minted, "revokeNodeAccess", 1, sender=ALICE) == ("NotMinter", ALICE)
    assert refused(minted, "revokeNodeAccess", 2) == ("ERC721NonexistentToken", 2)
    minted.send("revokeNodeAccess", 1)
    assert refused(minted, "revokeNodeAccess", 1) == ("NodeIsRevoked", 1)
