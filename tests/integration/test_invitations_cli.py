"""Invitations by their commands, on a real dev chain, checked with foundry's cast."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.anvil import Anvil, key_of
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import User, verifier

from dstack_vpn.adapters.contracts import calls, load_artifact
from dstack_vpn.adapters.contracts.abi import encode
from dstack_vpn.core.chain.invitation_code import InvitationCode

pytestmark = pytest.mark.anvil

HOLDER, OTHER = "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc", "0x" + "ab" * 20


async def define(anvil: Anvil, *names: str) -> None:
    for name in names:
        await anvil.send(load_artifact().functions["defineTag(string)"] + encode(name))


async def invited(user: User, *more: str, node_id: str = "web-1", by: int = 0) -> str:
    """Return the code of a new invitation."""
    ran = await user("invite", "create", node_id, *more, by=by)
    code = ran.out.strip()
    assert InvitationCode.decode(code).invitation.node_id == node_id
    assert ran.out.count("\n") == 1
    return code


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


async def test_an_invitation_is_created_without_a_transaction_and_shown(user: User) -> None:
    await define(user.anvil, "web", "db", "gateway")
    before = await user.nonces()
    options = (
        "--tags",
        "gateway,web",
        "--routes",
        "fd00::/8,10.0.0.0/8",
        "--expires",
        "90d",
        "--valid",
        "24h",
    )
    ran = await user("invite", "create", "web-1", *options, "--json", by=0)
    made = ran.json
    assert await user.nonces() == before
    code = InvitationCode.decode(made["code"])
    assert code.invitation.tags == 0b101
    assert made["routes"] == ["10.0.0.0/8", "fd00::/8"]
    assert made["expires_at"] - made["deadline"] == 89 * 86_400
    assert made["minter"] == user.anvil.accounts[0].lower()
    shown = (await user("invite", "show", made["code"], "--json")).json
    assert shown == {
        **{name: value for name, value in made.items() if name != "code"},
        "tags": ["web", "gateway"],
        "signed_by_account": True,
        "checked_on_chain": True,
        "status": "open",
    }
    hash_of = (
        "invitationHash((string,uint256,bytes32[],uint64,uint64,address,address,address,uint256))(bytes32)"
    )
    terms = code.invitation
    routes = "[0x" + "04" + "00" * 26 + "0a00000008" + ",0x" + "06" + "00" * 14 + "fd" + "00" * 15 + "08]"
    fields = (
        f"({terms.node_id},{terms.tags},{routes},{terms.expires_at},{terms.deadline},"
        f"{terms.minter},{terms.holder},{terms.claimant},{terms.salt})"
    )
    assert await verifier(user.anvil, hash_of, fields) == [made["hash"]]


async def test_a_code_is_shown_offline_without_its_secret(user: User) -> None:
    code = await invited(user, "--valid", "1h")
    key = InvitationCode.decode(code).claim_key
    assert key is not None
    for more, checked in (((), ""), (("--json",), '"checked_on_chain": false')):
        ran = await user("invite", "show", code, *more, RPC_URL="", CONTRACT_ADDRESS="")
        assert key.reveal().hex() not in ran.out and code[40:] not in ran.out
        assert "set RPC_URL to check" in ran.out and "web-1" in ran.out and checked in ran.out


async def test_a_typing_error_is_found_offline(user: User) -> None:
    code = await invited(user)
    altered = code[:80] + ("A" if code[80] != "A" else "B") + code[81:]
    for command, by in (("show", None), ("cancel", 0)):
        ran = await user("invite", command, altered, by=by, code=1, RPC_URL="http://127.0.0.1:1")
        assert "checksum is wrong" in ran.error
        assert altered[90:] not in ran.err


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (("--tags", "office"), 1, "does not define 'office' (defined: web)"),
        (("--tags", "Web"), 2, "tags: expected 1 to 63 of a-z"),
        (("--routes", "10.0.0.1/8"), 2, "write 10.0.0.0/8"),
        (("--routes", "10.0.0.0/8,10.1.0.0/16"), 2, "overlap"),
        (("--expires", "1h"), 2, "would end before the invitation"),
        (("--valid", "366d"), 2, "expected a time from"),
        (("--valid", "0"), 2, "expected a time from"),
        (("--holder", "0x12"), 2, "40 hexadecimal digits"),
        (("--holder", "0x3c44CdDdB6a900fa2b585dd299e03d12FA4293BC"), 1, "checksum is wrong"),
    ],
)
async def test_nothing_is_signed_that_the_contract_refuses(
    user: User, options: tuple[str, ...], code: int, problem: str
) -> None:
    await define(user.anvil, "web")
    ran = await user("invite", "create", "web-1", *options, by=0, code=code)
    assert problem in ran.err
    assert not ran.out


async def test_only_a_minter_invites_and_only_to_a_free_node_id(user: User) -> None:
    ran = await user("invite", "create", "web-1", by=1, code=1)
    assert "is not a minter of the registry" in ran.error
    await user.anvil.send(calls.add_minter(user.anvil.accounts[1]))
    await invited(user, by=1)
    await user.anvil.send(calls.mint(user.anvil.accounts[2], "web-1", key_of(1)))
    ran = await user("invite", "create", "web-1", by=1, code=1)
    assert "the node id web-1 belongs to token 1" in ran.error
    ran = await user("invite", "create", "Web_1", by=0, code=2)
    assert "node id: expected 1 to 63" in ran.err


async def test_an_invitation_is_cancelled_once_by_a_minter(user: User) -> None:
    first, second = await invited(user), await invited(user, "--holder", HOLDER)
    before = await user.nonces()
    ran = await user("invite", "cancel", first, by=1, code=1)
    assert "is not a minter of the registry; nothing was sent" in ran.error
    assert await user.nonces() == before
    cancelled = (await user("invite", "cancel", first, "--json", by=0)).json
    assert await verifier(user.anvil, "isInvitationUsed(bytes32)(bool)", cancelled["hash"]) == ["true"]
    nonces = await user.nonces()
    for code in (first, cancelled["hash"]):
        ran = await user("invite", "cancel", code, by=0, code=1)
        assert "was already cancelled; nothing was sent" in ran.error
    assert await user.nonces() == nonces
    assert (
        (await user("invite", "show", first, "--json"))
        .json["status"]
        .startswith("the invitation was cancelled")
    )
    shown = (await user("invite", "show", second, "--json")).json
    assert (shown["status"], shown["holder"]) == ("open", HOLDER)
    ran = await user("invite", "cancel", shown["hash"], by=0)
    assert "is cancelled" in ran.out


async def test_a_hash_needs_its_contract(user: User) -> None:
    ran = await user("invite", "cancel", "0x" + "1" * 64, by=0, code=1, CONTRACT_ADDRESS="")
    assert "set CONTRACT_ADDRESS, or give the code" in ran.error


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"CONTRACT_ADDRESS": OTHER}, f"but CONTRACT_ADDRESS is {OTHER}"),
        ({"NETWORK": "base"}, "(NETWORK, CHAIN_ID) are for chain 8453"),
        ({"CHAIN_ID": "5"}, "(NETWORK, CHAIN_ID) are for chain 5"),
    ],
)
async def test_a_code_of_another_registry_is_refused(
    user: User, settings: dict[str, Any], problem: str
) -> None:
    code = await invited(user)
    before = await user.nonces()
    for command, by in (("show", None), ("cancel", 0)):
        ran = await user("invite", command, code, by=by, code=1, **settings)
        assert problem in ran.error
    assert await user.nonces() == before


async def test_a_code_names_its_registry(user: User) -> None:
    code = await invited(user)
    ran = await user("invite", "show", code, "--json", CONTRACT_ADDRESS="", NETWORK="")
    assert ran.json["status"] == "open"


async def test_the_registry_shows_why_an_invitation_is_not_open(user: User) -> None:
    anvil = user.anvil
    await anvil.send(calls.add_minter(anvil.accounts[1]))
    code = await invited(user, by=1)
    await anvil.send(calls.pause())
    assert "is paused" in (await user("invite", "show", code)).out
    await anvil.send(calls.unpause())
    await anvil.send(calls.remove_minter(anvil.accounts[1]))
    assert "is not a minter any more" in (await user("invite", "show", code)).out
    await anvil.send(calls.add_minter(anvil.accounts[1]))
    await anvil.rpc("evm_increaseTime", 86_401)
    await anvil.mine()
    shown = (await user("invite", "show", code)).out
    assert re.search(r"expired at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown)


async def test_the_first_version_of_the_contract_has_no_invitations(user: User) -> None:
    ran = await user("invite", "create", "web-1", by=0, code=1, CONTRACT_ABI="access-registry-v1")
    assert "can't use invitations" in ran.error
