"""Roles, ownership, pause, enumeration, ERC-165, and the reverts of all reading functions."""

import pytest
from tests.contracts.evm import ALICE, BOB, CAROL, DAVE, OWNER, ZERO, Chain, Contract, Reverted, key, load
from tests.contracts.test_nodes import refused

from dstack_vpn.adapters.contracts import signatures


def unreadable(contract: Contract, function: str, *args: object) -> tuple[object, ...]:
    with pytest.raises(Reverted) as caught:
        contract.call(function, *args)
    return caught.value.error


# -- minters ---------------------------------------------------------------------------------------


def test_a_minter_mints_revokes_and_sets_expiries(registry: Contract) -> None:
    assert registry.send("addMinter", DAVE) == [("MinterAdded", DAVE)]
    assert registry.call("isMinter", DAVE) is True
    registry.send("mintNodeAccess", ALICE, "web", key(1), "", sender=DAVE)
    registry.send("setExpiry", 1, registry.chain.now, sender=DAVE)
    registry.send("revokeNodeAccess", 1, sender=DAVE)
    assert registry.send("removeMinter", DAVE) == [("MinterRemoved", DAVE)]
    assert registry.call("isMinter", DAVE) is False
    assert refused(registry, "mintNodeAccess", ALICE, "x", key(2), "", sender=DAVE) == ("NotMinter", DAVE)


def test_minter_changes_are_refused(registry: Contract) -> None:
    registry.send("addMinter", DAVE)
    assert refused(registry, "addMinter", DAVE) == ("AlreadyMinter", DAVE)
    assert refused(registry, "addMinter", ZERO) == ("InvalidMinter",)
    assert refused(registry, "removeMinter", ALICE) == ("NotMinter", ALICE)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("addMinter", (ALICE,)),
        ("removeMinter", (DAVE,)),
        ("addPolicyAdministrator", (ALICE,)),
        ("removePolicyAdministrator", (DAVE,)),
        ("defineTag", ("web",)),
        ("pause", ()),
        ("unpause", ()),
        ("transferContractOwnership", (ALICE,)),
        ("transferOwnership", (ALICE,)),
        ("renounceOwnership", ()),
    ],
)
def test_only_the_owner(registry: Contract, function: str, args: tuple[str, ...]) -> None:
    registry.send("addMinter", DAVE)
    assert refused(registry, function, *args, sender=DAVE) == ("OwnableUnauthorizedAccount", DAVE)


# -- pause -----------------------------------------------------------------------------------------


def test_a_pause_stops_minting_and_nothing_else(minted: Contract) -> None:
    assert minted.send("pause") == [("Paused", OWNER)]
    assert minted.call("paused") is True
    assert refused(minted, "mintNodeAccess", BOB, "db", key(2), "") == ("EnforcedPause",)
    assert refused(minted, "pause") == ("EnforcedPause",)
    minted.send("updatePublicKey", 1, key(3), sender=ALICE)
    minted.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    minted.send("revokeNodeAccess", 1)
    assert minted.send("unpause") == [("Unpaused", OWNER)]
    assert refused(minted, "unpause") == ("ExpectedPause",)
    minted.send("mintNodeAccess", BOB, "db", key(2), "")


# -- ownership -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["transferContractOwnership", "transferOwnership"])
def test_ownership_takes_two_steps(registry: Contract, function: str) -> None:
    assert registry.send(function, ALICE) == [
        ("OwnershipTransferStarted", OWNER, ALICE),
        ("OwnershipTransferInitiated", OWNER, ALICE),
    ]
    assert (registry.call("owner"), registry.call("pendingOwner")) == (OWNER, ALICE)
    assert refused(registry, "acceptOwnership", sender=BOB) == ("OwnableUnauthorizedAccount", BOB)
    assert registry.send("acceptOwnership", sender=ALICE) == [("OwnershipTransferred", OWNER, ALICE)]
    assert registry.call("owner") == ALICE
    assert refused(registry, "pause") == ("OwnableUnauthorizedAccount", OWNER)


def test_an_offer_can_be_withdrawn(registry: Contract) -> None:
    registry.send("transferContractOwnership", ALICE)
    registry.send("transferContractOwnership", ZERO)
    assert refused(registry, "acceptOwnership", sender=ALICE) == ("OwnableUnauthorizedAccount", ALICE)


def test_ownership_is_not_renounced(registry: Contract) -> None:
    assert refused(registry, "renounceOwnership") == ("OwnershipNotRenounceable",)


def test_the_first_owner_is_somebody(chain: Chain) -> None:
    with pytest.raises(Reverted) as caught:
        chain.deploy("AccessRegistry", ZERO)
    assert caught.value.error == ("OwnableInvalidOwner", ZERO)


# -- enumeration -----------------------------------------------------------------------------------


def test_enumeration(registry: Contract) -> None:
    assert registry.call("totalSupply") == 0
    for number, holder in enumerate((ALICE, BOB, ALICE, ALICE), 1):
        registry.send("mintNodeAccess", holder, f"n{number}", key(number), "")
    registry.send("revokeNodeAccess", 2)
    registry.send("transferFrom", ALICE, CAROL, 1, sender=ALICE)
    assert registry.call("totalSupply") == 4
    assert [registry.call("tokenByIndex", i) for i in range(4)] == [1, 2, 3, 4]
    assert sorted(registry.call("tokenOfOwnerByIndex", ALICE, i) for i in range(2)) == [3, 4]
    assert registry.call("tokenOfOwnerByIndex", CAROL, 0) == 1
    assert unreadable(registry, "tokenByIndex", 4) == ("ERC721OutOfBoundsIndex", ZERO, 4)
    assert unreadable(registry, "tokenOfOwnerByIndex", ALICE, 2) == ("ERC721OutOfBoundsIndex", ALICE, 2)


def test_paging(registry: Contract) -> None:
    for number in range(1, 8):
        registry.send("mintNodeAccess", ALICE, f"n{number}", key(number), "")

    def page(offset: int, limit: int) -> list[int]:
        nodes, total = registry.call("getNodes", offset, limit)
        assert total == 7
        return [node[0] for node in nodes]

    assert page(0, 3) == [1, 2, 3]
    assert page(6, 3) == [7]
    assert page(0, 2**256 - 1) == list(range(1, 8))
    assert page(7, 1) == page(2**256 - 1, 2**256 - 1) == page(0, 0) == []


def test_a_page_holds_what_the_nodes_hold(minted: Contract) -> None:
    nodes, total = minted.call("getNodes", 0, 10)
    assert (nodes, total) == ((minted.call("getNode", 1),), 1)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    ["getNode", "getNodeAccess", "getPublicKeyByTokenId", "expiresAt", "tokenURI", "ownerOf", "getApproved"],
)
def test_an_unknown_token(minted: Contract, function: str) -> None:
    for token_id in (0, 2, 2**256 - 1):
        assert unreadable(minted, function, token_id) == ("ERC721NonexistentToken", token_id)


def test_an_unknown_node_id(minted: Contract) -> None:
    assert unreadable(minted, "getTokenIdByNodeId", "db") == ("UnknownNodeId", "db")
    minted.send("revokeNodeAccess", 1)
    assert unreadable(minted, "getTokenIdByNodeId", "web") == ("UnknownNodeId", "web")


def test_access_of_strangers(minted: Contract) -> None:
    for user, node_id in ((BOB, "web"), (ALICE, "db"), (ZERO, "db"), (ZERO, "")):
        assert minted.call("hasNodeAccess", user, node_id) is False
        assert minted.call("verifyAccess", user, node_id) is False
    assert minted.call("verifyAccess", ALICE, "web") is True


def test_the_key_of_an_owner_is_that_of_the_latest_minted_node(registry: Contract) -> None:
    assert registry.call("getPublicKeyByOwner", ALICE) == ""
    for number in (1, 2, 3):
        registry.send("mintNodeAccess", ALICE, f"n{number}", key(number), "")
    assert registry.call("getPublicKeyByOwner", ALICE) == key(3)
    registry.send("revokeNodeAccess", 3)
    registry.send("updatePublicKey", 1, key(9), sender=ALICE)
    assert registry.call("getPublicKeyByOwner", ALICE) == key(2)
    registry.send("transferFrom", ALICE, BOB, 2, sender=ALICE)
    assert registry.call("getPublicKeyByOwner", ALICE) == key(9)


def test_the_latest_is_the_latest_in_whatever_order_the_holder_got_them(registry: Contract) -> None:
    for number in (1, 2, 3):
        registry.send("mintNodeAccess", ALICE, f"n{number}", key(number), "")
    registry.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    assert [registry.call("tokenOfOwnerByIndex", ALICE, i) for i in range(2)] == [3, 2]
    assert registry.call("getPublicKeyByOwner", ALICE) == key(3)


def test_names(registry: Contract) -> None:
    assert (registry.call("name"), registry.call("symbol")) == ("dstack-vpn access", "DVPN")
    assert unreadable(registry, "balanceOf", ZERO) == ("ERC721InvalidOwner", ZERO)


ERC165, ERC721, ERC721_METADATA, ERC721_ENUMERABLE = "01ffc9a7", "80ac58cd", "5b5e139f", "780e9d63"


def test_interfaces(registry: Contract) -> None:
    known = [ERC165, ERC721, ERC721_METADATA, ERC721_ENUMERABLE, signatures.ACCESS_REGISTRY_ID.hex()]
    for interface_id in known:
        assert registry.call("supportsInterface", bytes.fromhex(interface_id)) is True
    for interface_id in ("ffffffff", "00000000", "80ac58ce"):
        assert registry.call("supportsInterface", bytes.fromhex(interface_id)) is False


def test_the_interface_id_is_that_of_the_artifact() -> None:
    assert load("AccessRegistry")["interfaceId"] == "0x" + signatures.ACCESS_REGISTRY_ID.hex()


def test_the_contract_fits_on_chain() -> None:
    assert load("AccessRegistry")["runtimeBytes"] <= 24_576
