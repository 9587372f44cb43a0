"""The registry contract against a Python model of it, over random sequences of calls.

Every rule draws its arguments from small pools, so that clashes (taken names, foreign tokens,
revoked nodes) are as common as successes. A call must have the model's outcome, be it events or the
named error, and after every call all that can be read must be what the model says.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.contracts.evm import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    OWNER,
    ZERO,
    Chain,
    Contract,
    Reverted,
    key,
    load,
)
from tests.contracts.model import Model, Offer, Refused, route

USERS = (ALICE, BOB, CAROL)
SENDERS = (OWNER, DAVE, *USERS)
NAMES = ("web", "db", "a", "x" * 40, "-bad")
KEYS = (*(key(n) for n in range(1, 7)), key(0), "short")
ENDPOINTS = ("", "vpn.example.org:51820", "e" * 100, "with space")
TAGS = ("gateway", "db", "web", "t" * 63, "-bad")
MASKS = (0, 1, 2, 3, 1 << 2, 1 << 255, (1 << 256) - 1)
ROUTES = tuple(
    tuple(map(route, networks))
    for networks in (
        (),
        ("10.0.0.0/8",),
        ("10.0.0.0/8", "192.168.0.0/16", "fd00::/8"),
        ("0.0.0.0/0", "::/0"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8", "10.1.0.0/16"),
        ("10.1.0.0/16", "10.0.0.0/8"),
        ("fd00::/8", "10.0.0.0/8"),
        ("10.0.0.1/8",),
        tuple(f"10.{i}.0.0/16" for i in range(16)),
        tuple(f"10.{i}.0.0/16" for i in range(17)),
    )
)
POLICIES = ("", "{}", '{"grants": []}', "ü" * 40, "p" * 1000)
ACCOUNTS = {
    name: Account.from_key(bytes([number]) * 32) for number, name in enumerate(("minter", "rogue"), 1)
}
"""The accounts that sign invitations: one is a minter at times, the other never is."""
MINTER, ROGUE = (account.address.lower() for account in ACCOUNTS.values())
CLAIMANT = Account.from_key(bytes([9]) * 32)


senders, users = st.sampled_from(SENDERS), st.sampled_from(USERS)
minters = st.sampled_from((OWNER, OWNER, DAVE, ALICE))
names, keys, endpoints = st.sampled_from(NAMES), st.sampled_from(KEYS), st.sampled_from(ENDPOINTS)
tokens = st.integers(0, 7)
masks, routes = st.sampled_from(MASKS), st.sampled_from(ROUTES)


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()
        self.registry: Contract = self.chain.deploy("AccessRegistry", OWNER)
        self.model = Model()
        self.change_invitations_minter(OWNER, grant=True)

    def agree(self, function: str, *args: Any, sender: str, model: "Outcome") -> None:
        try:
            outcome: Any = self.registry.send(function, *args, sender=sender)
        except Reverted as refusal:
            outcome = refusal.error
        assert outcome == model.value
        if isinstance(outcome, list):
            self.model.count(outcome)
        CALLS[function] += 1
        if isinstance(outcome, list):
            SUCCESSES[function] += 1

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.chain.mine(seconds)
        for token in self.model.tokens:
            self.read_access(token)

    @rule(sender=minters, to=users, name=names, text=keys, uri=st.sampled_from(("", "ipfs://x", "u" * 70)))
    def mint(self, sender: str, to: str, name: str, text: str, uri: str) -> None:
        with expected() as outcome:
            outcome.value = self.model.mint(sender, to, name, text, uri, self.chain.now, self.chain.number)
        self.agree("mintNodeAccess", to, name, text, uri, sender=sender, model=outcome)

    @rule(to=users)
    def mint_another(self, to: str) -> None:
        """A mint that clashes with nothing, so that holders come to have several nodes."""
        fresh = len(self.model.tokens) + 100
        self.mint(self.model.owner, to, f"n{fresh}", key(fresh), "")

    @rule(sender=minters, token=tokens)
    def revoke(self, sender: str, token: int) -> None:
        with expected() as outcome:
            outcome.value = self.model.revoke(sender, token)
        self.agree("revokeNodeAccess", token, sender=sender, model=outcome)

    @rule(sender=minters, token=tokens, delta=st.none() | st.integers(-2, 5))
    def set_expiry(self, sender: str, token: int, delta: int | None) -> None:
        end = 0 if delta is None else self.chain.now + delta
        with expected() as outcome:
            outcome.value = self.model.set_expiry(sender, token, end, self.chain.now)
        self.agree("setExpiry", token, end, sender=sender, model=outcome)

    def holder(self, token: int, other: str) -> str:
        """Return the holder, or at times another account."""
        node = self.model.tokens.get(token)
        return node.owner if node and other != CAROL else other

    @rule(token=tokens, other=users, text=keys)
    def update_key(self, token: int, other: str, text: str) -> None:
        sender = self.holder(token, other)
        with expected() as outcome:
            outcome.value = self.model.update_key(sender, token, text, self.chain.number)
        self.agree("updatePublicKey", token, text, sender=sender, model=outcome)

    @rule(token=tokens, other=users, endpoint=endpoints)
    def set_endpoint(self, token: int, other: str, endpoint: str) -> None:
        sender = self.holder(token, other)
        with expected() as outcome:
            outcome.value = self.model.set_endpoint(sender, token, endpoint)
        self.agree("setEndpoint", token, endpoint, sender=sender, model=outcome)

    @rule(token=tokens, other=users, to=users)
    def transfer(self, token: int, other: str, to: str) -> None:
        sender = self.holder(token, other)
        with expected() as outcome:
            outcome.value = self.model.transfer(sender, to, token)
        self.agree("transferFrom", sender, to, token, sender=sender, model=outcome)
        self.holders_agree(sender)
        self.holders_agree(to)

    @rule(sender=senders, grant=st.booleans())
    def change_minter(self, sender: str, *, grant: bool) -> None:
        with expected() as outcome:
            self.model.require_owner(sender)
            if grant is (DAVE in self.model.minters):
                raise Refused("AlreadyMinter" if grant else "NotMinter", DAVE)
            self.model.minters ^= {DAVE}
            outcome.value = [("MinterAdded" if grant else "MinterRemoved", DAVE)]
        self.agree("addMinter" if grant else "removeMinter", DAVE, sender=sender, model=outcome)

    @rule(sender=senders, grant=st.booleans())
    def change_invitations_minter(self, sender: str, *, grant: bool) -> None:
        with expected() as outcome:
            self.model.require_owner(sender)
            if grant is (MINTER in self.model.minters):
                raise Refused("AlreadyMinter" if grant else "NotMinter", MINTER)
            self.model.minters ^= {MINTER}
            outcome.value = [("MinterAdded" if grant else "MinterRemoved", MINTER)]
        self.agree("addMinter" if grant else "removeMinter", MINTER, sender=sender, model=outcome)

    @rule(sender=senders, grant=st.booleans())
    def change_policy_administrator(self, sender: str, *, grant: bool) -> None:
        with expected() as outcome:
            self.model.require_owner(sender)
            if grant is (CAROL in self.model.policy_administrators):
                raise Refused("AlreadyPolicyAdministrator" if grant else "NotPolicyAdministrator", CAROL)
            self.model.policy_administrators ^= {CAROL}
            event = "PolicyAdministratorAdded" if grant else "PolicyAdministratorRemoved"
            outcome.value = [(event, CAROL)]
        function = "addPolicyAdministrator" if grant else "removePolicyAdministrator"
        self.agree(function, CAROL, sender=sender, model=outcome)

    @rule(sender=st.sampled_from((OWNER, OWNER, DAVE)), name=st.sampled_from(TAGS))
    def define_tag(self, sender: str, name: str) -> None:
        with expected() as outcome:
            outcome.value = self.model.define_tag(sender, name)
        self.agree("defineTag", name, sender=sender, model=outcome)

    @rule(sender=minters, token=tokens, mask=masks)
    def set_tags(self, sender: str, token: int, mask: int) -> None:
        with expected() as outcome:
            outcome.value = self.model.set_tags(sender, token, mask)
        self.agree("setTags", token, mask, sender=sender, model=outcome)

    @rule(sender=minters, token=tokens, networks=routes)
    def set_routes(self, sender: str, token: int, networks: tuple[bytes, ...]) -> None:
        with expected() as outcome:
            outcome.value = self.model.set_routes(sender, token, networks)
        self.agree("setRoutes", token, networks, sender=sender, model=outcome)

    @rule(sender=st.sampled_from((OWNER, CAROL, DAVE)), text=st.sampled_from(POLICIES))
    def set_policy(self, sender: str, text: str) -> None:
        with expected() as outcome:
            outcome.value = self.model.set_policy(sender, text)
        self.agree("setPolicy", text, sender=sender, model=outcome)
        assert self.registry.call("policy") == self.model.policy
        assert self.registry.call("policyHash") == self.model.policy_hash()

    @rule(
        sender=users,
        name=names,
        text=keys,
        endpoint=endpoints,
        mask=st.sampled_from((0, 0, 1, 1 << 255)),
        networks=st.sampled_from(((), (), ROUTES[1], ROUTES[4])),
        end=st.sampled_from((0, 0, -1, 5)),
        deadline=st.integers(-1, 3),
        signer=st.sampled_from(("minter", "minter", "rogue")),
        holder=st.sampled_from((ZERO, ALICE, BOB)),
        spoilt=st.sampled_from(("", "", "", "signature", "claim")),
        salt=st.integers(0, 1),
    )
    def redeem(
        self,
        sender: str,
        name: str,
        text: str,
        endpoint: str,
        mask: int,
        networks: tuple[bytes, ...],
        end: int,
        deadline: int,
        signer: str,
        holder: str,
        spoilt: str,
        salt: int,
    ) -> None:
        account = ACCOUNTS[signer]
        invitation = (
            name,
            mask,
            networks,
            end and self.chain.now + end,
            self.chain.now + deadline,
            account.address.lower(),
            holder,
            CLAIMANT.address.lower(),
            salt,
        )
        digest = self.registry.call("invitationHash", invitation)
        claim = self.registry.call("claimHash", digest, BOB if spoilt == "claim" else sender, text, endpoint)
        offer = Offer(
            digest,
            *invitation[:7],
            signed=spoilt != "signature",
            claimed=spoilt != "claim" or sender == BOB,
        )
        with expected() as outcome:
            outcome.value = self.model.redeem(
                sender, offer, text, endpoint, self.chain.now, self.chain.number
            )
        signature = account.unsafe_sign_hash(keccak(b"other") if spoilt == "signature" else digest).signature
        self.agree(
            "redeem",
            invitation,
            bytes(signature),
            text,
            endpoint,
            bytes(CLAIMANT.unsafe_sign_hash(claim).signature),
            sender=sender,
            model=outcome,
        )
        assert self.registry.call("isInvitationUsed", digest) is (digest in self.model.used)
        if outcome.value and isinstance(outcome.value, list):
            OFFERS.append((self.registry, digest))

    @rule(
        sender=minters,
        to=users,
        name=names,
        token=tokens,
        mask=masks,
        networks=routes,
        order=st.permutations(("mint", "tags", "routes")),
        count=st.integers(0, 3),
    )
    def batch(
        self,
        sender: str,
        to: str,
        name: str,
        token: int,
        mask: int,
        networks: tuple[bytes, ...],
        order: list[str],
        count: int,
    ) -> None:
        """All calls of a transaction, or none of them."""
        after, text = deepcopy(self.model), key(len(self.model.tokens) + 100)
        chosen, data, events = order[:count], self.registry.calldata, []
        with expected() as outcome:
            for call in chosen:
                if call == "mint":
                    events += after.mint(sender, to, name, text, "", self.chain.now, self.chain.number)
                elif call == "tags":
                    events += after.set_tags(sender, token, mask)
                else:
                    events += after.set_routes(sender, token, networks)
            outcome.value = events
            self.model = after
        calls = {
            "mint": data("mintNodeAccess", to, name, text, ""),
            "tags": data("setTags", token, mask),
            "routes": data("setRoutes", token, networks),
        }
        self.agree("multicall", [calls[call] for call in chosen], sender=sender, model=outcome)

    @rule(sender=users, salt=st.integers(0, 9))
    def redeem_another(self, sender: str, salt: int) -> None:
        """Redeem an invitation without conflicts; its minter may lack the role."""
        fresh = len(self.model.tokens) + 100
        self.redeem(
            sender=sender,
            name=f"n{fresh}",
            text=key(fresh),
            endpoint="vpn.example.org:51820",
            mask=1 if self.model.tags else 0,
            networks=ROUTES[2],
            end=5,
            deadline=1,
            signer="minter",
            holder=ZERO,
            spoilt="",
            salt=salt,
        )

    @rule(sender=minters, number=st.integers(0, 3))
    def cancel(self, sender: str, number: int) -> None:
        digest = keccak(bytes([number]))
        with expected() as outcome:
            outcome.value = self.model.cancel(sender, digest)
        self.agree("cancelInvitation", digest, sender=sender, model=outcome)

    @rule(sender=senders, paused=st.booleans())
    def change_pause(self, sender: str, *, paused: bool) -> None:
        with expected() as outcome:
            self.model.require_owner(sender)
            if paused is self.model.paused:
                raise Refused("EnforcedPause" if paused else "ExpectedPause")
            self.model.paused = paused
            outcome.value = [("Paused" if paused else "Unpaused", sender)]
        self.agree("pause" if paused else "unpause", sender=sender, model=outcome)

    @rule(sender=senders, to=st.sampled_from((OWNER, DAVE, ZERO)))
    def offer_ownership(self, sender: str, to: str) -> None:
        with expected() as outcome:
            self.model.require_owner(sender)
            self.model.pending = to
            outcome.value = [
                ("OwnershipTransferStarted", sender, to),
                ("OwnershipTransferInitiated", sender, to),
            ]
        self.agree("transferContractOwnership", to, sender=sender, model=outcome)

    @rule(sender=senders)
    def accept_ownership(self, sender: str) -> None:
        with expected() as outcome:
            if sender != self.model.pending:
                raise Refused("OwnableUnauthorizedAccount", sender)
            outcome.value = [("OwnershipTransferred", self.model.owner, sender)]
            self.model.owner, self.model.pending = sender, ZERO
        self.agree("acceptOwnership", sender=sender, model=outcome)

    @rule(offset=st.integers(0, 9), limit=st.integers(0, 9))
    def page(self, offset: int, limit: int) -> None:
        everything = [self.model.view(i) for i in sorted(self.model.tokens)]
        nodes, total = self.registry.call("getNodes", offset, limit)
        assert list(nodes) == everything[offset : offset + limit]
        assert total == len(everything)

    @rule(user=users, name=names)
    def look_up(self, user: str, name: str) -> None:
        found = next((i for i, t in self.model.live().items() if t.name == name), None)
        access = found is not None and self.model.tokens[found].owner == user
        access = access and self.model.tokens[found or 0].has_access(self.chain.now)
        assert self.registry.call("hasNodeAccess", user, name) is access
        assert self.registry.call("verifyAccess", user, name) is access
        try:
            assert self.registry.call("getTokenIdByNodeId", name) == found
        except Reverted as refusal:
            assert (refusal.error, found) == (("UnknownNodeId", name), None)

    @rule(token=tokens)
    def read_access(self, token: int) -> None:
        if node := self.model.tokens.get(token):
            expected_node = (node.name, node.key, node.created, node.has_access(self.chain.now))
            assert self.registry.call("getNodeAccess", token) == expected_node

    @invariant()
    def nodes_agree(self) -> None:
        expected_nodes = [self.model.view(i) for i in sorted(self.model.tokens)]
        assert self.registry.call("getNodes", 0, 1000) == (tuple(expected_nodes), len(expected_nodes))
        assert self.registry.call("revision") == self.model.revision

    @rule()
    def roles_agree(self) -> None:
        assert set(self.registry.call("minters")) == self.model.minters
        assert set(self.registry.call("policyAdministrators")) == self.model.policy_administrators
        assert list(self.registry.call("tags")) == self.model.tags

    @rule(user=users)
    def holders_agree(self, user: str) -> None:
        held = sorted(i for i, t in self.model.tokens.items() if t.owner == user)
        assert self.registry.call("balanceOf", user) == len(held)
        assert sorted(self.registry.call("tokenOfOwnerByIndex", user, i) for i in range(len(held))) == held
        with_access = [
            self.model.tokens[i].key for i in held if self.model.tokens[i].has_access(self.chain.now)
        ]
        assert self.registry.call("getPublicKeyByOwner", user) == (with_access[-1] if with_access else "")


@dataclass
class Outcome:
    value: Any = None


CALLS: Counter[str] = Counter()
"""The calls of each function."""
SUCCESSES: Counter[str] = Counter()
"""The calls that were not refused."""
OFFERS: list[Any] = []
"""The invitations that were redeemed."""
INHERITED = {"approve", "setApprovalForAll", "safeTransferFrom", "transferOwnership"}
"""Functions of OpenZeppelin that lead to the same internal functions as those that are called."""


@contextmanager
def expected() -> Iterator[Outcome]:
    """The model's outcome: its events, or the error that it raised."""
    outcome = Outcome()
    try:
        yield outcome
    except Refused as refusal:
        outcome.value = refusal.args


def check(sequences: int, steps: int) -> None:
    """Run random sequences of at most this many calls each."""
    CALLS.clear()
    SUCCESSES.clear()
    OFFERS.clear()
    chosen = settings(
        max_examples=sequences,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),  # they measure the machine's load
    )
    run_state_machine_as_test(RegistryMachine, settings=chosen)


def unreached() -> set[str]:
    """Return the functions whose calls were all refused, or none of whose calls was."""
    writing = {
        item["name"]
        for item in load("AccessRegistry")["abi"]
        if (item["type"], item.get("stateMutability")) == ("function", "nonpayable")
    }
    return {name for name in writing - INHERITED if not 0 < SUCCESSES[name] < CALLS[name]}


@pytest.mark.timeout(400)
def test_the_contract_does_what_the_model_says() -> None:
    check(150, 80)
    assert CALLS.total() > 2000, "too few calls reached the contract to mean anything"
    assert SUCCESSES.total() > 1000, "too few of them did anything"
    assert len(OFFERS) > 20, "too few invitations were redeemed"
