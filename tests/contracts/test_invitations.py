"""Invitations: an offer that a minter signs, and that a node redeems with a key of its own."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from tests.contracts.evm import ALICE, BOB, OWNER, ZERO, Chain, Contract, Reverted, key, view
from tests.contracts.model import route
from tests.contracts.test_nodes import refused

from dstack_vpn.adapters.admin.signer import Signer, typed_hash
from dstack_vpn.core.chain.invitation import Invitation as Terms
from dstack_vpn.core.chain.invitation import RegistryAddress, claim_data, route_word
from dstack_vpn.core.chain.invitation_code import ClaimKey
from dstack_vpn.core.wireguard.keys import PublicKey

MINTER = Account.from_key(bytes([1]) * 32)
ONE_TIME = Account.from_key(bytes([2]) * 32)
ROGUE = Account.from_key(bytes([3]) * 32)
ENDPOINT = "vpn.example.org:51820"
CHAIN_ID = 1
GAS = 3_000_000
"""The gas of a transaction whose signer burns all that it gets: 63 of 64 parts (EIP-150)."""
FIELDS = [
    {"name": "nodeId", "type": "string"},
    {"name": "tags", "type": "uint256"},
    {"name": "routes", "type": "bytes32[]"},
    {"name": "expiresAt", "type": "uint64"},
    {"name": "deadline", "type": "uint64"},
    {"name": "minter", "type": "address"},
    {"name": "holder", "type": "address"},
    {"name": "claimant", "type": "address"},
    {"name": "salt", "type": "uint256"},
]
CLAIM = [
    {"name": "invitation", "type": "bytes32"},
    {"name": "redeemer", "type": "address"},
    {"name": "wireguardPublicKey", "type": "string"},
    {"name": "endpoint", "type": "string"},
]


@dataclass(frozen=True)
class Invitation:
    nodeId: str = "web"  # noqa: N815 - the contract's names
    tags: int = 0
    routes: tuple[bytes, ...] = ()
    expiresAt: int = 0  # noqa: N815
    deadline: int = 2_000_000_000
    minter: str = MINTER.address.lower()
    holder: str = ZERO
    claimant: str = ONE_TIME.address.lower()
    salt: int = 7

    @property
    def tuple(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field["name"]) for field in FIELDS)


class Desk:
    """Signs with eth-account's encoder of EIP-712, independent of the contract's hashes."""

    def __init__(self, registry: Contract, chain_id: int = CHAIN_ID) -> None:
        self.registry = registry
        self.domain = {
            "name": "dstack-vpn access",
            "version": "2",
            "chainId": chain_id,
            "verifyingContract": registry.address,
        }

    def sign(self, invitation: Invitation, account: Any = MINTER) -> bytes:
        message = {field["name"]: getattr(invitation, field["name"]) for field in FIELDS}
        message["routes"] = list(invitation.routes)
        typed = encode_typed_data(self.domain, {"Invitation": FIELDS}, message)
        return bytes(account.sign_message(typed).signature)

    def claim(
        self, invitation: Invitation, redeemer: str, text: str, endpoint: str, account: Any = ONE_TIME
    ) -> bytes:
        digest = self.registry.call("invitationHash", invitation.tuple)
        message = {
            "invitation": digest,
            "redeemer": redeemer,
            "wireguardPublicKey": text,
            "endpoint": endpoint,
        }
        typed = encode_typed_data(self.domain, {"Claim": CLAIM}, message)
        return bytes(account.sign_message(typed).signature)

    def arguments(self, invitation: Invitation, redeemer: str, **others: Any) -> tuple[Any, ...]:
        text, endpoint = others.pop("text", key(1)), others.pop("endpoint", ENDPOINT)
        signature = others.pop("signature", None) or self.sign(invitation)
        claim = others.pop("claim", None)
        if claim is None:
            claim = self.claim(invitation, redeemer, text, endpoint)
        return invitation.tuple, signature, text, endpoint, claim


@pytest.fixture
def desk(registry: Contract) -> Desk:
    registry.send("addMinter", MINTER.address)
    registry.send("defineTag", "web")
    return Desk(registry)


def test_an_invitation_is_redeemed_by_the_invited_node(desk: Desk) -> None:
    registry, routes, end = desk.registry, (route("10.0.0.0/8"),), desk.registry.chain.now + 100
    invitation = Invitation(tags=1, routes=routes, expiresAt=end)
    digest = registry.call("invitationHash", invitation.tuple)
    assert registry.call("isInvitationUsed", digest) is False
    assert registry.send("redeem", *desk.arguments(invitation, ALICE), sender=ALICE) == [
        ("Transfer", ZERO, ALICE, 1),
        ("NodeAccessGranted", 1, "web", ALICE, key(1)),
        ("NodeTagsUpdated", 1, 1),
        ("NodeRoutesUpdated", 1, routes),
        ("NodeExpiryUpdated", 1, end),
        ("NodeEndpointUpdated", 1, ENDPOINT),
        ("InvitationRedeemed", digest, 1),
    ]
    node = view(registry, 1)
    assert (node["owner"], node["nodeId"], node["wireguardPublicKey"]) == (ALICE, "web", key(1))
    assert (node["tags"], node["routes"], node["expiresAt"], node["endpoint"]) == (1, routes, end, ENDPOINT)
    assert registry.call("isInvitationUsed", digest) is True


def test_it_is_redeemed_once(desk: Desk) -> None:
    arguments = desk.arguments(Invitation(), ALICE)
    digest = desk.registry.call("invitationHash", Invitation().tuple)
    desk.registry.send("redeem", *arguments, sender=ALICE)
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("InvitationUsed", digest)
    desk.registry.send("revokeNodeAccess", 1)
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("InvitationUsed", digest)


def test_it_is_cancelled(desk: Desk) -> None:
    registry = desk.registry
    digest = registry.call("invitationHash", Invitation().tuple)
    assert refused(registry, "cancelInvitation", digest, sender=ALICE) == ("NotMinter", ALICE)
    assert registry.send("cancelInvitation", digest) == [("InvitationCancelled", digest)]
    assert refused(registry, "cancelInvitation", digest) == ("InvitationUsed", digest)
    arguments = desk.arguments(Invitation(), ALICE)
    assert refused(registry, "redeem", *arguments, sender=ALICE) == ("InvitationUsed", digest)


def test_it_ends_at_its_deadline(desk: Desk) -> None:
    chain = desk.registry.chain
    invitation = Invitation(deadline=chain.now)
    arguments = desk.arguments(invitation, ALICE)
    chain.mine(1)
    error = refused(desk.registry, "redeem", *arguments, sender=ALICE)
    assert error == ("InvitationExpired", invitation.deadline, chain.now)


def test_somebody_who_sees_it_pending_cannot_redeem_it(desk: Desk) -> None:
    """A pending transaction is public. Its proof covers the sender, the key and the endpoint."""
    registry, invitation = desk.registry, Invitation()
    signed, signature, text, endpoint, claim = desk.arguments(invitation, ALICE)
    for stolen in (
        (signed, signature, text, endpoint, claim),
        (signed, signature, key(66), endpoint, claim),
        (signed, signature, text, "192.0.2.66:1", claim),
        (signed, signature, key(66), endpoint, b""),
        (signed, signature, key(66), endpoint, desk.claim(invitation, BOB, key(66), endpoint, ROGUE)),
    ):
        assert refused(registry, "redeem", *stolen, sender=BOB) == ("InvalidClaim",)
    registry.send("redeem", signed, signature, text, endpoint, claim, sender=ALICE)


def test_one_for_an_account_needs_no_proof_and_is_for_that_account_only(desk: Desk) -> None:
    invitation = Invitation(holder=ALICE, claimant=ZERO)
    arguments = desk.arguments(invitation, ALICE, claim=b"")
    error = refused(desk.registry, "redeem", *arguments, sender=BOB)
    assert error == ("InvitationForAnother", ALICE, BOB)
    desk.registry.send("redeem", *arguments, sender=ALICE)
    assert desk.registry.call("ownerOf", 1) == ALICE


@pytest.mark.parametrize(
    "change",
    [
        {"nodeId": "db"},
        {"tags": 1},
        {"routes": (route("10.0.0.0/8"),)},
        {"expiresAt": 2_100_000_000},
        {"deadline": 2_000_000_001},
        {"holder": ALICE},
        {"claimant": ROGUE.address.lower()},
        {"salt": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_altered_one_is_refused(desk: Desk, change: dict[str, Any]) -> None:
    altered = replace(Invitation(), **change)
    account = ROGUE if "claimant" in change else ONE_TIME
    claim = desk.claim(altered, ALICE, key(1), ENDPOINT, account)
    arguments = desk.arguments(altered, ALICE, signature=desk.sign(Invitation()), claim=claim)
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("InvalidInvitation",)
    assert desk.registry.call("totalSupply") == 0


def test_one_of_another_chain_or_registry_is_refused(desk: Desk) -> None:
    elsewhere = (Desk(desk.registry, CHAIN_ID + 1), Desk(desk.registry.chain.deploy("AccessRegistry", OWNER)))
    for other in elsewhere:
        arguments = desk.arguments(Invitation(), ALICE, signature=other.sign(Invitation()))
        assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("InvalidInvitation",)


def test_its_minter_must_be_one_when_it_is_redeemed(desk: Desk) -> None:
    rogue = Invitation(minter=ROGUE.address.lower())
    arguments = desk.arguments(rogue, ALICE, signature=desk.sign(rogue, ROGUE))
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("NotMinter", rogue.minter)
    desk.registry.send("removeMinter", MINTER.address)
    arguments = desk.arguments(Invitation(), ALICE)
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("NotMinter", Invitation().minter)


def test_its_signer_must_be_its_minter(desk: Desk) -> None:
    arguments = desk.arguments(Invitation(), ALICE, signature=desk.sign(Invitation(), ROGUE))
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("InvalidInvitation",)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"nodeId": "-a"}, ("InvalidNodeId",)),
        ({"nodeId": "taken"}, ("NodeIdTaken", "taken", 1)),
        ({"tags": 2}, ("UndefinedTags", 2)),
        ({"routes": (route("10.0.0.1/8"),)}, ("InvalidRoute", 0)),
    ],
    ids=["node id", "taken", "tags", "routes"],
)
def test_what_a_minter_could_not_do_is_refused(
    desk: Desk, change: dict[str, Any], error: tuple[Any, ...]
) -> None:
    desk.registry.send("mintNodeAccess", BOB, "taken", key(5), "")
    arguments = desk.arguments(replace(Invitation(), **change), ALICE)
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == error


def test_what_the_node_adds_is_checked(desk: Desk) -> None:
    for others, error in (({"text": "short"}, "InvalidPublicKey"), ({"endpoint": "a b"}, "InvalidEndpoint")):
        arguments = desk.arguments(Invitation(), ALICE, **others)
        assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == (error,)


def test_none_is_redeemed_while_minting_is_paused(desk: Desk) -> None:
    desk.registry.send("pause")
    arguments = desk.arguments(Invitation(), ALICE)
    assert refused(desk.registry, "redeem", *arguments, sender=ALICE) == ("EnforcedPause",)


def test_the_domain_and_the_claims_hash_are_those_of_eip_712(desk: Desk) -> None:
    _, name, version, chain_id, contract, _, _ = desk.registry.call("eip712Domain")
    assert (name, version, chain_id) == ("dstack-vpn access", "2", CHAIN_ID)
    assert contract == desk.registry.address.lower()
    digest = desk.registry.call("invitationHash", Invitation().tuple)
    claimed = desk.registry.call("claimHash", digest, ALICE, key(1), ENDPOINT)
    signature = desk.claim(Invitation(), ALICE, key(1), ENDPOINT)
    assert Account._recover_hash(claimed, signature=signature) == ONE_TIME.address


MODES = ["Honest", "Refuses", "Reverts", "BurnsGas", "RepliesShort", "RepliesLong"]


@pytest.mark.parametrize("mode", MODES)
def test_a_contract_signs_by_erc_1271(chain: Chain, desk: Desk, mode: str) -> None:
    """Such as a multi-signature wallet. One that misbehaves only fails its own invitation."""
    signer = chain.deploy("ContractSigner", ROGUE.address, MODES.index(mode)).address
    desk.registry.send("addMinter", signer)
    invitation = Invitation(minter=signer)
    arguments = desk.arguments(invitation, ALICE, signature=desk.sign(invitation, ROGUE))
    if mode == "Honest":
        assert desk.registry.send("redeem", *arguments, sender=ALICE)[-1][0] == "InvitationRedeemed"
        return
    data = desk.registry.calldata("redeem", *arguments)
    with pytest.raises(Reverted) as caught:
        desk.registry.raw(data, sender=ALICE, gas=GAS)
    assert caught.value.error == ("InvalidInvitation",)
    assert desk.registry.call("totalSupply") == 0


def test_the_products_own_hashes_and_calldata_are_the_contracts(desk: Desk) -> None:
    registry = desk.registry
    routes, claim_key = ("10.0.0.0/8", "fd00::/8"), ClaimKey(bytes([2]) * 32)
    terms = Terms("web", 1, routes, 0, 2_000_000_000, MINTER.address.lower(), ZERO, claim_key.address, 9)
    place = RegistryAddress(CHAIN_ID, registry.address.lower())
    digest = typed_hash(terms.typed_data(place))
    words = tuple(map(route_word, routes))
    own = Invitation(tags=1, routes=words, salt=9)
    assert digest == registry.call("invitationHash", own.tuple)
    claim = claim_data(place, digest, ALICE, PublicKey.parse(key(1)), ENDPOINT)
    assert typed_hash(claim) == registry.call("claimHash", digest, ALICE, key(1), ENDPOINT)
    signature = Signer("01" * 32).sign_typed(terms.typed_data(place))
    proof = Signer(claim_key.reveal().hex()).sign_typed(claim)
    assert registry.send("redeem", own.tuple, signature, key(1), ENDPOINT, proof, sender=ALICE)[-1] == (
        "InvitationRedeemed",
        digest,
        1,
    )
