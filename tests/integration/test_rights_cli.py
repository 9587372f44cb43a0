"""Tags and routes of nodes by their commands, checked with foundry's cast."""

import re
from collections.abc import Iterator

import pytest
from tests.anvil import Anvil
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import DEPLOYED, User, reply_by_cast, verifier
from tests.integration.test_contract_cli import FIRST, deploy_other

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.abi import address_word

pytestmark = pytest.mark.anvil
VIEW = (
    "getNode(uint256)((uint256,address,string,string,string,string,uint64,uint64,uint64,bool,bool,"
    "uint256,bytes32[]))"
)


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


async def rights_by_cast(anvil: Anvil, token: int) -> tuple[int, list[str]]:
    """Return a node's mask of tags and the words of its routes."""
    text = await reply_by_cast(anvil, VIEW, str(token))
    found = re.search(r"(?:true|false), (?:true|false), (\d+)(?: \[[^\]]*\])?, \[(.*)", text)
    assert found is not None, text
    return int(found[1]), re.findall("0x[0-9a-f]{64}", found[2])


async def test_tags_are_defined_in_one_transaction_and_listed(user: User) -> None:
    anvil = user.anvil
    assert (await user("tag", "list", "--json")).json["tags"] == []
    before = await user.nonces()
    done = (await user("tag", "define", "gateway", "web", "db", "--json", by=0)).json
    assert done["tags"] == {"gateway": 0, "web": 1, "db": 2}
    after = await user.nonces()
    assert int(after[0], 16) - int(before[0], 16) == 1
    assert "last (number 3)" in (await user("tag", "define", "last", by=0)).out
    (text,) = await verifier(anvil, "tags()(string[])")
    assert re.findall("[a-z]+", text) == ["gateway", "web", "db", "last"]
    listed = (await user("tag", "list", "--json")).json["tags"]
    assert listed[3] == {"number": 3, "name": "last"}
    assert re.search("^2 +db$", (await user("tag", "list")).out, re.MULTILINE)


async def test_tags_are_given_to_a_node_by_their_names(user: User) -> None:
    await user("tag", "define", "gateway", "web", "db", by=0)
    token = await user.register(1)
    done = (await user("node", "tag", "node-1", "db", "gateway", "--json", by=0)).json
    assert (done["tags"], done["mask"]) == (["db", "gateway"], "0x5")
    assert (await rights_by_cast(user.anvil, token))[0] == 0b101
    assert "has the tags web" in (await user("node", "tag", "node-1", "web", by=0)).out
    assert (await rights_by_cast(user.anvil, token))[0] == 0b10
    assert "has no tags" in (await user("node", "tag", "node-1", "--none", by=0)).out
    assert (await rights_by_cast(user.anvil, token))[0] == 0


async def test_routes_are_set_in_the_contracts_order(user: User) -> None:
    token = await user.register(1)
    networks = ("fd00:7::/64", "192.168.7.0/24", "10.0.0.0/8")
    done = (await user("node", "routes", "node-1", *networks, "--json", by=0)).json
    assert done["routes"] == ["10.0.0.0/8", "192.168.7.0/24", "fd00:7::/64"]
    assert (await rights_by_cast(user.anvil, token))[1] == [
        "0x04" + "00" * 26 + "0a000000" + "08",
        "0x04" + "00" * 26 + "c0a80700" + "18",
        "0x06" + "00" * 14 + "fd000007" + "00" * 12 + "40",
    ]
    sixteen = [f"10.{number}.0.0/16" for number in range(16)]
    await user("node", "routes", "node-1", *sixteen, by=0)
    assert len((await rights_by_cast(user.anvil, token))[1]) == 16
    assert "has no routes" in (await user("node", "routes", "node-1", "--none", by=0)).out
    assert (await rights_by_cast(user.anvil, token))[1] == []


@pytest.mark.parametrize(
    ("networks", "problem"),
    [
        (("10.0.0.1/8",), "write 10.0.0.0/8"),
        (("10.0.0.0/255.0.0.0",), "write 10.0.0.0/8"),
        (("FD00::/8",), "write fd00::/8"),
        (("10.0.0.0/8", "10.0.0.0/8"), "overlap"),
        (("10.0.0.0/8", "10.1.0.0/16"), "overlap"),
        (("::/0", "fd00::/8"), "overlap"),
        (("10.0.0.0",), "expected networks"),
        (("nonsense",), "expected networks"),
        (("fe80::%1/64",), "expected networks"),
        (tuple(f"10.{number}.0.0/16" for number in range(17)), "17, but a node has at most 16"),
        ((), "either networks or --none"),
        (("10.0.0.0/8", "--none"), "either networks or --none"),
    ],
)
async def test_malformed_routes_are_refused(user: User, networks: tuple[str, ...], problem: str) -> None:
    await user.register(1)
    before = await user.nonces()
    ran = await user("node", "routes", "node-1", *networks, by=0, code=2)
    assert problem in ran.error
    assert await user.nonces() == before


async def test_malformed_tags_are_refused(user: User) -> None:
    await user("tag", "define", "web", by=0)
    await user.register(1)
    before = await user.nonces()
    for problem, *arguments in (
        ("expected 1 to 63", "tag", "define", "Web"),
        ("db is given twice", "tag", "define", "db", "db"),
        ("at most 64", "tag", "define", *(f"tag-{number}" for number in range(65))),
        ("web is given twice", "node", "tag", "node-1", "web", "web"),
        ("either tags or --none", "node", "tag", "node-1"),
        ("either tags or --none", "node", "tag", "node-1", "web", "--none"),
    ):
        assert problem in (await user(*arguments, by=0, code=2)).error
    for problem, *arguments in (
        ("web is defined already, as number 0", "tag", "define", "db", "web"),
        ("does not define db (defined: web)", "node", "tag", "node-1", "web", "db"),
        ("no such node", "node", "tag", "node-9", "web"),
    ):
        assert problem in (await user(*arguments, by=0, code=1)).error
    by_another = await user("tag", "define", "db", by=1, code=1)
    assert "OwnableUnauthorizedAccount" in by_another.error
    assert "NotMinter" in (await user("node", "tag", "node-1", "web", by=1, code=1)).error
    assert await user.nonces() == before


async def test_the_257th_tag_is_refused_and_the_256th_works(user: User) -> None:
    names = [f"t{number}" for number in range(255)]
    for first in range(0, 255, 64):
        await user.anvil.send(calls.multicall([calls.define_tag(n) for n in names[first : first + 64]]))
    before = await user.nonces()
    error = (await user("tag", "define", "a", "b", by=0, code=1)).error
    assert "has 255 of at most 256 tags, so 2 more" in error
    assert await user.nonces() == before
    await user("tag", "define", "a", by=0)
    await user.register(1)
    assert (await user("node", "tag", "node-1", "a", "--json", by=0)).json["mask"] == hex(1 << 255)
    assert "has 256 of at most 256" in (await user("tag", "define", "b", by=0, code=1)).error


@pytest.mark.parametrize("first_version", [True, False])
async def test_older_contracts_name_the_functions_that_they_lack(user: User, first_version: bool) -> None:
    anvil = user.anvil
    if first_version:
        await deploy_other(anvil, FIRST, address_word(anvil.accounts[0]))
    else:
        await deploy_other(anvil, DEPLOYED, 0, 1, 0, 1)
    await user.register(1)
    before = await user.nonces()
    name = "access-registry-v1" if first_version else "dstack-access-nft"
    for function, *arguments in (
        ("defineTag", "tag", "define", "web"),
        ("tags", "tag", "list"),
        ("setTags", "node", "tag", "node-1", "web"),
        ("setRoutes", "node", "routes", "node-1", "10.0.0.0/8"),
    ):
        error = (await user(*arguments, by=0, code=1)).error
        assert f"the contract is a {name}, which can't" in error
        assert error.endswith(f"it has no function {function}")
    assert await user.nonces() == before
