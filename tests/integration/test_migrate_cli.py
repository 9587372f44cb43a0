"""The members of each kind of registry, registered in a new one."""

from collections.abc import Iterator

import pytest
from tests.anvil import Anvil, key_of
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import ACCESS, DEPLOYED, Ran, User, verifier
from tests.integration.test_contract_cli import FIRST, deploy_other
from tests.integration.test_rights_cli import rights_by_cast
from tests.integration.test_withheld_cli import send_by_cast

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.abi import address_word

pytestmark = pytest.mark.anvil
END = 4102444800


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


async def new_registry(user: User) -> tuple[str, str]:
    """Deploy another registry, use it from now on, and return the old one's address and its own."""
    old = user.anvil.contract
    return old, await user.anvil.deploy()


async def migrate(user: User, old: str, new: str, *more: str, by: int | None = 0, code: int = 0) -> Ran:
    return await user("contract", "migrate", "--from", old, "--to", new, *more, by=by, code=code)


async def member(user: User, token: int) -> tuple[str, str, str]:
    """Return a token's node id, key and holder, by cast."""
    name, key, _, active = await verifier(user.anvil, ACCESS, str(token))
    assert active == "true"
    return name, key, (await verifier(user.anvil, "ownerOf(uint256)(address)", str(token)))[0].lower()


async def test_a_registry_of_the_same_version_moves_with_all_rights(user: User) -> None:
    one, two = (account.lower() for account in user.anvil.accounts[1:3])
    await user.anvil.send(calls.multicall([calls.define_tag("gateway"), calls.define_tag("web")]))
    for number in (1, 2, 3, 4):
        await user.register(number)
    await user("node", "set-endpoint", "node-1", "a.example:1", by=1)
    await user("node", "tag", "node-1", "web", by=0)
    await user("node", "routes", "node-1", "10.0.0.0/8", by=0)
    await user("node", "set-expiry", "node-1", str(END), by=0)
    await user("node", "revoke", "node-2", "--yes", by=0)
    await user("node", "transfer", "node-3", "--to", two, "--yes", by=1)
    old, new = await new_registry(user)
    before = await user.nonces()
    undefined = await migrate(user, old, new, code=1)
    assert "node-1: tag: the registry does not define web" in undefined.err
    assert await user.nonces() == before
    # The tags have other numbers in the new registry.
    await user.anvil.send(calls.multicall([calls.define_tag("web"), calls.define_tag("gateway")]))
    done = await migrate(user, old, new, "--json")
    assert [each["node_id"] for each in done.json["registered"]] == ["node-1", "node-4"]
    assert done.json["moved"] == [{"old_token": 4, "token": 2}]
    assert [(each["token"], each["reason"]) for each in done.json["left_out"]] == [
        (2, "it is revoked"),
        (3, "it waits for its holder's key"),
    ]
    assert "other tunnel addresses: 1" in done.err
    assert await member(user, 1) == ("node-1", str(key_of(1)), one)
    assert await member(user, 2) == ("node-4", str(key_of(4)), one)
    assert await rights_by_cast(user.anvil, 1) == (0b1, ["0x04" + "00" * 26 + "0a000000" + "08"])
    assert await verifier(user.anvil, "expiresAt(uint256)(uint64)", "1") == [str(END)]
    assert (await user("node", "info", "1", "--json")).json["uri_endpoint"] == "a.example:1"
    again = (await migrate(user, old, new, "--json")).json
    assert (again["registered"], len(again["unchanged"]), again["transactions"]) == ([], 2, [])


async def test_the_first_version_and_an_interrupted_run(user: User) -> None:
    anvil = user.anvil
    await deploy_other(anvil, FIRST, address_word(anvil.accounts[0]))
    for number in range(1, 6):
        await user.register(number)
    await user("node", "set-expiry", "5", str(END), by=0)
    old, new = await new_registry(user)
    # An earlier run has registered some, without rights.
    await anvil.mint(1)
    await anvil.mint(5)
    done = (await migrate(user, old, new, "--json")).json
    assert [each["node_id"] for each in done["registered"]] == ["node-2", "node-3", "node-4"]
    assert (done["completed"], done["unchanged"]) == ([2], [{"token": 1, "node_id": "node-1"}])
    assert await verifier(anvil, "totalSupply()(uint256)") == ["5"]
    assert await verifier(anvil, "expiresAt(uint256)(uint64)", "2") == [str(END)]


async def test_the_deployed_contract(user: User) -> None:
    anvil = user.anvil
    one = anvil.accounts[1].lower()
    await deploy_other(anvil, DEPLOYED, 0, 1, 0, 1)
    for number in (1, 2, 3):
        await user.register(number, *(("--endpoint", "db.example.org:51820") if number == 3 else ()))
    await user("node", "revoke", "1", "--yes", by=0)
    await anvil.send(calls.mint(one, "Upper.Case", key_of(4)))
    old, new = await new_registry(user)
    before = await user.nonces()
    refused = await migrate(user, old, new, code=1)
    assert "Upper.Case (token 4): node id: expected" in refused.err and "--leave-out" in refused.err
    dry = (await migrate(user, old, new, "--leave-out", "--dry-run", "--json")).json
    assert dry["to"] == new and dry["gas"] > 100_000
    assert await user.nonces() == before
    done = (await migrate(user, old, new, "--leave-out", "--json")).json
    assert [each["node_id"] for each in done["registered"]] == ["node-2", "node-3"]
    assert [each["token"] for each in done["left_out"]] == [1, 4]
    assert await member(user, 2) == ("node-3", str(key_of(3)), one)
    assert (await user("node", "info", "2", "--json")).json["uri_endpoint"] == "db.example.org:51820"


async def test_another_wallet_migrates(user: User) -> None:
    for number in (1, 2):
        await user.register(number)
    old, new = await new_registry(user)
    found = (await migrate(user, old, new, "--calldata", "--json", by=None)).json
    assert await send_by_cast(user.anvil, found, user.anvil.accounts[0]) == "0x1"
    assert len((await migrate(user, old, new, "--calldata", "--json", by=None)).json["unchanged"]) == 2


async def test_contradictions_are_refused_and_nothing_is_sent(user: User) -> None:
    await user.register(1)
    await user.register(2)
    old, new = await new_registry(user)
    await user.anvil.send(calls.mint(user.anvil.accounts[2], "node-2", key_of(2)))
    before = await user.nonces()
    ran = await migrate(user, old, new, code=1)
    assert "node-2 is registered as token 1 with another holder" in ran.err
    assert "the same registry" in (await migrate(user, old, old, code=2)).error
    nowhere = "0x" + "1" * 40
    assert "there is no contract at" in (await migrate(user, nowhere, new, code=1)).error
    assert "there is no contract at" in (await migrate(user, old, nowhere, code=1)).error
    await deploy_other(user.anvil, FIRST, address_word(user.anvil.accounts[0]))
    assert "it has no function multicall" in (await migrate(user, old, user.anvil.contract, code=1)).error
    assert int((await user.nonces())[0], 16) == int(before[0], 16) + 1  # the deployment only
