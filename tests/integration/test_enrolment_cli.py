"""Many nodes from a file: the number of transactions, an interrupted run, and malformed files."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from tests.anvil import Anvil, key_of
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import ACCESS, DEPLOYED, Ran, User, verifier
from tests.integration.test_contract_cli import FIRST, deploy_other
from tests.integration.test_rights_cli import rights_by_cast
from tests.integration.test_withheld_cli import send_by_cast

from dstack_vpn.adapters.admin.reading import RegistrySnapshot
from dstack_vpn.adapters.admin.registry import Access
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.abi import address_word
from dstack_vpn.core.chain.enrolment import GAS_LIMIT

pytestmark = pytest.mark.anvil
HEAD = "node_id,holder,public_key,endpoint,tags,routes,expires"
END = 4102444800


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


def row(user: User, number: int, more: str = ",,,") -> str:
    return f"node-{number},{user.anvil.accounts[1]},{key_of(number)},{more}"


def with_rights(number: int) -> str:
    return f"192.0.2.{number}:51820,web gateway,10.{number}.0.0/16 fd00:{number}::/32,{END}"


def write(folder: Path, rows: Sequence[str]) -> str:
    path = folder / "nodes.csv"
    path.write_text("\n".join([HEAD, *rows]))
    return str(path)


async def register(user: User, file: str, *more: str, by: int | None = 0, code: int = 0) -> Ran:
    return await user("node", "register-csv", file, *more, by=by, code=code)


async def sent(user: User) -> int:
    return int((await user.nonces())[0], 16)


@pytest.mark.parametrize(("rights", "limit"), [(False, 2), (True, 5)])
async def test_100_nodes_need_few_transactions(user: User, tmp_path: Path, rights: bool, limit: int) -> None:
    """Each node has another holder, which costs more gas than one holder of all."""
    await user.anvil.send(calls.multicall([calls.define_tag("gateway"), calls.define_tag("web")]))
    numbers = range(1, 101)
    rows = [row(user, n, with_rights(n) if rights else ",,,") for n in numbers]
    holders = [f"0x{n:040x}" for n in numbers]
    rows = [line.replace(user.anvil.accounts[1], h) for line, h in zip(rows, holders, strict=True)]
    file = write(tmp_path, rows)
    before = await sent(user)
    done = (await register(user, file, "--json")).json
    assert [each["node_id"] for each in done["registered"]] == [f"node-{n}" for n in numbers]
    assert await sent(user) - before == len(done["transactions"]) <= limit
    assert max(each["gas_used"] for each in done["transactions"]) < GAS_LIMIT
    assert await verifier(user.anvil, "totalSupply()(uint256)") == ["100"]
    for number in (1, 57, 100):
        name, key, _, active = await verifier(user.anvil, ACCESS, str(number))
        assert (name, key, active) == (f"node-{number}", str(key_of(number)), "true")
        if rights:
            mask, routes = await rights_by_cast(user.anvil, number)
            assert mask == 0b11 and len(routes) == 2
            assert await verifier(user.anvil, "expiresAt(uint256)(uint64)", str(number)) == [str(END)]
    again = await register(user, file)
    assert (
        "0 nodes are registered, 0 were completed, 100 were registered already with equal data" in again.out
    )
    assert await sent(user) - before == len(done["transactions"])


async def test_an_interrupted_run_is_continued(user: User, tmp_path: Path) -> None:
    await user.anvil.send(calls.multicall([calls.define_tag("gateway"), calls.define_tag("web")]))
    rows = [row(user, number, with_rights(number)) for number in (1, 2, 3)]
    plain = write(tmp_path, [line.rsplit(",", 3)[0] + ",,," for line in rows[:2]])
    await register(user, plain)  # as a run that ended before it set the rights
    await user.anvil.send(calls.set_tags(2, 0b11))
    done = (await register(user, write(tmp_path, rows), "--json")).json
    assert [each["node_id"] for each in done["registered"]] == ["node-3"]
    assert (done["completed"], done["unchanged"]) == ([1, 2], [])
    for token in (1, 2, 3):
        mask, routes = await rights_by_cast(user.anvil, token)
        assert mask == 0b11 and len(routes) == 2
    assert len((await register(user, write(tmp_path, rows), "--json")).json["unchanged"]) == 3


async def test_a_failure_between_transactions_says_how_to_continue(user: User, tmp_path: Path) -> None:
    file = write(tmp_path, [row(user, number) for number in range(1, 101)])
    first, second = (await register(user, file, "--dry-run", "--json")).json["transactions"]
    await user.anvil.rpc("anvil_setBalance", user.anvil.accounts[0], hex(first["max_fee_wei"]))
    ran = await register(user, file, code=1)
    assert "nothing was sent" in ran.error and second["gas"] > 6_000_000
    assert "59 of 100 new nodes are registered. Run the same command again" in ran.err
    await user.anvil.rpc("anvil_setBalance", user.anvil.accounts[0], hex(10**20))
    done = (await register(user, file, "--json")).json
    assert (len(done["registered"]), len(done["unchanged"])) == (41, 59)


async def test_a_later_batch_is_simulated_before_the_first_is_sent(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member with a node id that was taken after the reading is in the second batch."""
    read = Access.list

    async def list_and_take(access: Access) -> RegistrySnapshot:
        snapshot = await read(access)
        await asyncio.to_thread(asyncio.run, take())
        return snapshot

    async def take() -> None:
        body = {"from": user.anvil.accounts[0], "to": user.anvil.contract, "gas": hex(10**6)}
        body["data"] = "0x" + calls.mint(user.anvil.accounts[2], "node-90", key_of(90)).hex()
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendTransactionSync", "params": [body]}
        async with aiohttp.ClientSession() as client, client.post(user.anvil.http, json=call) as reply:
            assert (await reply.json())["result"]["status"] == "0x1"

    monkeypatch.setattr(Access, "list", list_and_take)
    before = await sent(user)
    ran = await register(user, write(tmp_path, [row(user, n) for n in range(1, 101)]), code=1)
    assert 'NodeIdTaken("node-90", 1); nothing was sent' in ran.error
    assert await sent(user) == before + 1  # the other registration


async def test_a_malformed_file_changes_nothing(user: User, tmp_path: Path) -> None:
    await user.register(1)
    before = await user.nonces()
    good = [row(user, 1), row(user, 2)]
    for problem, rows in (
        ("line 4: node id: expected", [*good, row(user, 3).replace("node", "Node")]),
        ("line 4: its node id is that of line 3", [*good, row(user, 2)]),
        ("line 2: holder: ", [row(user, 3).replace("0x", "0x0"), *good]),
        ("does not define web", [*good, row(user, 3, with_rights(3))]),
        ("node-3: its access ended before", [*good, row(user, 3, ",,,1000000000")]),
        ("node-3: endpoint", [*good, row(user, 3, "10.77.0.2:1,,,")]),
        (
            "node-1 is registered as token 1 with another key",
            [row(user, 1).replace(str(key_of(1)), str(key_of(9)))],
        ),
        ("node-1 is registered as token 1 with another endpoint", [row(user, 1, "a.example:1,,,")]),
    ):
        ran = await register(user, write(tmp_path, rows), code=1)
        assert "nothing was sent" in ran.err and problem in ran.err, (problem, ran.err)
    for problem, path in (("No such file", tmp_path / "missing"), ("not UTF-8", tmp_path / "binary")):
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        assert problem in (await register(user, str(path), code=1)).error
    refused = await register(user, write(tmp_path, good), by=2, code=1)
    assert "NotMinter" in refused.error
    assert await user.nonces() == before


async def test_a_dry_run_and_calldata_of_a_batch(user: User, tmp_path: Path) -> None:
    await user.anvil.send(calls.multicall([calls.define_tag("gateway"), calls.define_tag("web")]))
    file = write(tmp_path, [row(user, number, with_rights(number)) for number in range(1, 61)])
    owner = user.anvil.accounts[0]
    before = await user.nonces()
    ran = await register(user, file, "--dry-run", "--json")
    dry = ran.json["transactions"]
    assert "expiries of the new nodes need further transactions" in ran.err
    assert len(dry) == 2 and all(1_000_000 < each["gas"] < 12_000_000 for each in dry)
    assert await user.nonces() == before
    rounds = 0
    while True:  # the mints, then the rights
        ran = await register(user, file, "--calldata", "--json", by=None)
        if "unchanged" in ran.json:
            break
        rounds += 1
        for transaction in ran.json.get("transactions", [ran.json]):
            assert await send_by_cast(user.anvil, transaction, owner) == "0x1"
    assert rounds == 2 and len(ran.json["unchanged"]) == 60
    assert (await rights_by_cast(user.anvil, 60))[0] == 0b11


@pytest.mark.parametrize("first_version", [True, False])
async def test_older_contracts_have_no_batches(user: User, tmp_path: Path, first_version: bool) -> None:
    if first_version:
        await deploy_other(user.anvil, FIRST, address_word(user.anvil.accounts[0]))
    else:
        await deploy_other(user.anvil, DEPLOYED, 0, 1, 0, 1)
    ran = await register(user, write(tmp_path, [row(user, 1)]), code=1)
    assert ran.error.endswith("it has no function multicall")
