"""The administration of the registry contract by its commands, checked with foundry's cast."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.anvil import Anvil, key_of
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import DEPLOYED, ZERO, User, verifier

from dstack_vpn.adapters.contracts.abi import address_word, encode

pytestmark = pytest.mark.anvil
FIRST = Path(__file__).parents[1] / "contracts" / "artifacts" / "AccessRegistryV1.json"


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


def creation_of(artifact: Path) -> bytes:
    return bytes.fromhex(json.loads(artifact.read_text())["bytecode"].removeprefix("0x"))


async def deploy_other(anvil: Anvil, artifact: Path, *arguments: int) -> None:
    """Deploy another contract, and use it from now on."""
    receipt = await anvil.send(creation_of(artifact) + encode(*arguments), to="")
    anvil.contract = receipt["contractAddress"].lower()


async def list_by_cast(anvil: Anvil, function: str) -> list[str]:
    (text,) = await verifier(anvil, f"{function}()(address[])")
    return [address.lower() for address in re.findall("0x[0-9a-fA-F]{40}", text)]


async def test_minters_are_added_listed_and_removed(user: User) -> None:
    anvil = user.anvil
    one, two = anvil.accounts[1].lower(), anvil.accounts[2].lower()
    done = (await user("contract", "minter", "add", anvil.accounts[1], "--json", by=0)).json
    assert done["account"] == one and done["gas_used"] > 21_000
    assert "is a minter" in (await user("contract", "minter", "add", two, by=0)).out
    assert await list_by_cast(anvil, "minters") == [one, two]
    assert (await user("contract", "minter", "list", "--json")).json["minters"] == sorted([one, two])
    assert (await user("contract", "minter", "list")).out.split() == sorted([one, two])
    arguments = ("--to", one, "--public-key", str(key_of(1)))
    await user("node", "register", "web-1", *arguments, by=2)
    await user("contract", "minter", "remove", two, by=0)
    assert await list_by_cast(anvil, "minters") == [one]
    refused = await user("node", "register", "web-2", *arguments, by=2, code=1)
    assert f"NotMinter({two})" in refused.error


async def test_policy_administrators_are_added_listed_and_removed(user: User) -> None:
    anvil = user.anvil
    account = anvil.accounts[2].lower()
    await user("contract", "policy-administrator", "add", account, by=0)
    assert await list_by_cast(anvil, "policyAdministrators") == [account]
    listed = (await user("contract", "policy-administrator", "list", "--json")).json
    assert listed["policy_administrators"] == [account]
    await user("contract", "policy-administrator", "remove", account, by=0)
    assert await list_by_cast(anvil, "policyAdministrators") == []
    assert (await user("contract", "policy-administrator", "list")).out == ""


async def test_registrations_are_paused_and_allowed_again(user: User) -> None:
    await user.register(1)
    assert (await user("contract", "pause", "--json", by=0)).json["paused"] is True
    assert await verifier(user.anvil, "paused()(bool)") == ["true"]
    arguments = ("--to", user.anvil.accounts[1], "--public-key", str(key_of(2)))
    refused = await user("node", "register", "web-2", *arguments, by=0, code=1)
    assert "EnforcedPause()" in refused.error
    await user("node", "set-expiry", "1", "+1d", by=0)
    assert (await user("contract", "unpause", "--json", by=0)).json["paused"] is False
    assert await verifier(user.anvil, "paused()(bool)") == ["false"]
    await user("node", "register", "web-2", *arguments, by=0)


async def test_the_contract_changes_hands_in_two_steps(user: User) -> None:
    anvil = user.anvil
    old, new = (account.lower() for account in anvil.accounts[:2])
    offered = (await user("contract", "transfer-ownership", new, "--json", by=0)).json
    assert offered["pending_owner"] == new
    owner, pending = "owner()(address)", "pendingOwner()(address)"
    assert [(await verifier(anvil, each))[0].lower() for each in (owner, pending)] == [old, new]
    refused = await user("contract", "accept-ownership", by=2, code=1)
    assert f"OwnableUnauthorizedAccount({anvil.accounts[2].lower()})" in refused.error
    assert "withdrawn" in (await user("contract", "transfer-ownership", "--withdraw", by=0)).out
    await user("contract", "accept-ownership", by=1, code=1)
    await user("contract", "transfer-ownership", new, by=0)
    assert (await user("contract", "accept-ownership", "--json", by=1)).json["owner"] == new
    assert (await verifier(anvil, owner))[0].lower() == new
    assert f"OwnableUnauthorizedAccount({old})" in (await user("contract", "pause", by=0, code=1)).error


async def test_info_shows_who_can_do_what(user: User) -> None:
    anvil = user.anvil
    owner, one, two = (account.lower() for account in anvil.accounts[:3])
    await user("contract", "minter", "add", one, by=0)
    await user("contract", "policy-administrator", "add", two, by=0)
    await user("contract", "transfer-ownership", one, by=0)
    for number in (1, 2, 3):
        await user.register(number)
    await user("node", "revoke", "1", "--yes", by=0)
    await user("node", "transfer", "2", "--to", two, "--yes", by=1)
    await user("contract", "pause", by=0)
    found = (await user("contract", "info", "--json")).json
    revision = await verifier(anvil, "revision()(uint64)")
    assert found == {
        "abi": "access-registry",
        "version": 2,
        "contract": anvil.contract,
        "chain_id": 31337,
        "block": int(await anvil.rpc("eth_blockNumber"), 16),
        "owner": owner,
        "pending_owner": one,
        "minters": [one],
        "policy_administrators": [two],
        "paused": True,
        "revision": int(revision[0]),
        "policy_hash": None,
        "tags": 0,
        "nodes": {"active": 1, "awaiting_key": 1, "revoked": 1},
    }
    shown = (await user("contract", "info")).out
    for row in (
        rf"owner +{owner} +define tags; choose minters .* of minters and policy administrators$",
        rf"pending owner +{one} +accept the contract",
        rf"minter +{one} +register, invite and revoke nodes",
        rf"policy administrator +{two} +set the policy",
        r"holder +the holder of each node +set its key and endpoint",
        r"nodes +1 active, 1 without a key, 1 revoked",
        r"registrations +paused",
        r"version +2 \(access-registry\)",
    ):
        assert re.search("^" + row, shown, re.MULTILINE), row


async def test_refusals_are_named_and_nothing_is_sent(user: User) -> None:
    anvil = user.anvil
    owner, one = (account.lower() for account in anvil.accounts[:2])
    await user("contract", "minter", "add", one, by=0)
    before = await user.nonces()
    by_one = f"OwnableUnauthorizedAccount({one})"
    for expected, by, *arguments in (
        (f"AlreadyMinter({one})", 0, "minter", "add", one),
        ("InvalidMinter()", 0, "minter", "add", ZERO),
        (f"NotMinter({owner})", 0, "minter", "remove", owner),
        (by_one, 1, "minter", "add", owner),
        (f"NotPolicyAdministrator({one})", 0, "policy-administrator", "remove", one),
        ("InvalidPolicyAdministrator()", 0, "policy-administrator", "add", ZERO),
        ("ExpectedPause()", 0, "unpause"),
        (by_one, 1, "pause"),
        (by_one, 1, "transfer-ownership", one),
        (f"OwnableUnauthorizedAccount({owner})", 0, "accept-ownership"),
    ):
        ran = await user("contract", *arguments, by=int(by), code=1)
        assert ran.error == f"error: the contract refused: {expected}; nothing was sent"
    wrong = anvil.accounts[2].replace("a", "A", 1) if "a" in anvil.accounts[2] else ""
    assert "checksum" in (await user("contract", "minter", "add", wrong, by=0, code=1)).error
    assert "--withdraw" in (await user("contract", "transfer-ownership", ZERO, by=0, code=1)).error
    for given in ((), (one, "--withdraw")):
        ran = await user("contract", "transfer-ownership", *given, by=0, code=2)
        assert "either an account or --withdraw" in ran.error
    assert await user.nonces() == before


async def test_the_first_version_names_the_functions_that_it_lacks(user: User) -> None:
    anvil = user.anvil
    await deploy_other(anvil, FIRST, address_word(anvil.accounts[0]))
    one = anvil.accounts[1].lower()
    await user("contract", "minter", "add", one, by=0)
    assert await verifier(anvil, "isMinter(address)(bool)", one) == ["true"]
    before = await user.nonces()
    for function, *arguments in (
        ("minters", "minter", "list"),
        ("policyAdministrators", "policy-administrator", "list"),
        ("addPolicyAdministrator", "policy-administrator", "add", one),
        ("removePolicyAdministrator", "policy-administrator", "remove", one),
    ):
        error = (await user("contract", *arguments, by=0, code=1)).error
        assert "the contract is a access-registry-v1, which can't" in error
        assert error.endswith(f"it has no function {function}")
    assert await user.nonces() == before
    await user("contract", "pause", by=0)
    await user("contract", "transfer-ownership", one, by=0)
    await user("contract", "accept-ownership", by=1)
    found = (await user("contract", "info", "--json")).json
    assert (found["version"], found["owner"], found["paused"], found["minters"]) == (1, one, True, None)
    assert "unknown: the contract does not have a list" in (await user("contract", "info")).out


async def test_the_deployed_contract_names_the_functions_that_it_lacks(user: User) -> None:
    anvil = user.anvil
    await deploy_other(anvil, DEPLOYED, 0, 1, 0, 1)
    one = anvil.accounts[1].lower()
    before = await user.nonces()
    for function, *arguments in (
        ("addMinter", "minter", "add", one),
        ("removeMinter", "minter", "remove", one),
        ("minters", "minter", "list"),
        ("pause", "pause"),
        ("unpause", "unpause"),
        ("acceptOwnership", "accept-ownership"),
    ):
        error = (await user("contract", *arguments, by=0, code=1)).error
        assert "the contract is a dstack-access-nft, which can't" in error
        assert error.endswith(f"it has no function {function}")
    assert "--yes" in (await user("contract", "transfer-ownership", one, by=0, code=1)).error
    assert "at once" in (await user("contract", "transfer-ownership", "--withdraw", by=0, code=1)).error
    assert await user.nonces() == before
    done = (await user("contract", "transfer-ownership", one, "--yes", "--json", by=0)).json
    assert done["owner"] == one
    assert (await verifier(anvil, "contractOwner()(address)"))[0].lower() == one
    found = (await user("contract", "info", "--json")).json
    assert (found["abi"], found["version"], found["owner"]) == ("dstack-access-nft", None, None)
    assert "unknown: the contract does not name it" in (await user("contract", "info")).out
