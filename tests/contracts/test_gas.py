"""The gas of the functions that write, against the table in contracts/README.md.

`python -m tests.contracts.test_gas` prints the table. It has the gas of transactions on
anvil, without the data fee of a rollup.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from tests.anvil import Anvil, running_anvil
from tests.contracts.evm import ROOT, ZERO, abi_type, key, load, signature
from tests.contracts.model import route
from tests.contracts.test_invitations import FIELDS

pytestmark = pytest.mark.anvil

GWEI: Final = 0.01
DOLLARS: Final = 3_000
"""The prices of the table: of a unit of gas in gwei, usual on Base, and of one ETH."""
BEGIN, END = "<!-- Made by tests/contracts/test_gas.py. -->\n", "<!-- End of the table. -->"
DEARER: Final = 1.08
EXCEPTIONS: Final = {
    "setEndpoint",
    "setExpiry",
    "addMinter",
    "removeMinter",
    "pause",
    "unpause",
    "transferContractOwnership",
    "acceptOwnership",
}
"""Functions that cost over 8 % more than before; contracts/README.md has the reasons."""

ENDPOINT = "vpn.example.org:51820"
MINTER = Account.from_key(bytes([1]) * 32)
HOUR = 3600


@dataclass
class Deployed:
    """A version of the contract on anvil."""

    anvil: Anvil
    artifact: dict[str, Any]
    address: str = ""

    async def deploy(self) -> None:
        code = self.artifact["bytecode"][2:] + encode(["address"], [self.anvil.accounts[0]]).hex()
        receipt = await self.anvil.send(bytes.fromhex(code), to="")
        self.address = receipt["contractAddress"]

    def data(self, function: str, *args: Any) -> bytes:
        item = next(x for x in self.artifact["abi"] if x.get("name") == function)
        selector: str = self.artifact["functions"][signature(item)]
        return bytes.fromhex(selector[2:]) + encode([abi_type(x) for x in item["inputs"]], args)

    async def send(self, function: str, *args: Any, by: int = 0) -> int:
        """Send a transaction of an account; return its gas."""
        receipt = await self.anvil.send(self.data(function, *args), sender=by, to=self.address)
        return int(receipt["gasUsed"], 16)


async def old_functions(on: Deployed) -> AsyncIterator[tuple[str, int]]:
    """The functions of both versions, each in a state in which it is usual."""
    alice, bob, carol = on.anvil.accounts[1:4]
    later = int((await on.anvil.rpc("eth_getBlockByNumber", "latest", False))["timestamp"], 16) + HOUR
    steps: Sequence[tuple[int, str, tuple[Any, ...]]] = (
        (0, "mintNodeAccess", (alice, "first", key(99), "")),
        (0, "mintNodeAccess", (alice, "web-1", key(1), "")),
        (1, "updatePublicKey", (2, key(3))),
        (1, "setEndpoint", (2, ENDPOINT)),
        (0, "setExpiry", (2, later)),
        (1, "transferFrom", (alice, bob, 2)),
        (2, "updatePublicKey", (2, key(4))),
        (0, "revokeNodeAccess", (2,)),
        (0, "addMinter", (carol,)),
        (0, "removeMinter", (carol,)),
        (0, "pause", ()),
        (0, "unpause", ()),
        (0, "transferContractOwnership", (carol,)),
        (3, "acceptOwnership", ()),
        (3, "transferContractOwnership", (on.anvil.accounts[0],)),
        (0, "acceptOwnership", ()),
    )
    seen: set[str] = set()
    for number, (by, function, args) in enumerate(steps):
        gas = await on.send(function, *args, by=by)
        if number and function not in seen:
            seen.add(function)
            yield function, gas


async def new_functions(on: Deployed) -> AsyncIterator[tuple[str, int]]:
    """The functions of the current version only."""
    alice, carol = on.anvil.accounts[1], on.anvil.accounts[3]
    yield "defineTag", await on.send("defineTag", "gateway")
    yield "setTags", await on.send("setTags", 1, 1)
    yield "setRoutes, one", await on.send("setRoutes", 1, [route("10.0.0.0/8")])
    sixteen = [route(f"10.{i}.0.0/16") for i in range(16)]
    yield "setRoutes, 16", await on.send("setRoutes", 1, sixteen)
    yield "setPolicy, 1,000 bytes", await on.send("setPolicy", "p" * 1000)
    yield "setPolicy, 24,000 bytes", await on.send("setPolicy", "p" * 24_000)
    yield "addPolicyAdministrator", await on.send("addPolicyAdministrator", carol)
    yield "removePolicyAdministrator", await on.send("removePolicyAdministrator", carol)
    await on.send("addMinter", MINTER.address)
    invitation: tuple[Any, ...] = ("web-2", 1, [], 0, 2_000_000_000, MINTER.address, alice, ZERO, 1)
    domain = {
        "name": "dstack-vpn access",
        "version": "2",
        "chainId": 31337,
        "verifyingContract": on.address,
    }
    message = dict(zip((field["name"] for field in FIELDS), invitation, strict=True))
    typed = encode_typed_data(domain, {"Invitation": FIELDS}, message)
    signed = bytes(MINTER.sign_message(typed).signature)
    yield "redeem", await on.send("redeem", invitation, signed, key(5), ENDPOINT, b"", by=1)
    yield "cancelInvitation", await on.send("cancelInvitation", bytes(31) + b"\x01")
    mints = [on.data("mintNodeAccess", alice, f"n{i}", key(100 + i), "") for i in range(20)]
    yield "multicall, 20 mints", await on.send("multicall", mints)


async def measure() -> tuple[dict[str, int], dict[str, int]]:
    """Return the gas of the first version, and of the current one."""
    async with running_anvil() as anvil:
        first, current = (Deployed(anvil, load(name)) for name in ("AccessRegistryV1", "AccessRegistry"))
        await first.deploy()
        await current.deploy()
        before = {name: gas async for name, gas in old_functions(first)}
        after = {name: gas async for name, gas in old_functions(current)}
        after |= {name: gas async for name, gas in new_functions(current)}
    return before, after


def table(before: dict[str, int], after: dict[str, int]) -> str:
    rows = []
    for name, gas in after.items():
        function, comma, how = name.partition(",")
        against = f"{100 * (gas / before[name] - 1):+.1f} %" if name in before else "-"
        rows.append(
            f"| `{function}`{comma}{how} | {gas:,} | {against} | {gas * GWEI * DOLLARS / 1e9:.4f} |\n"
        )
    return "| function | gas | against version 1 | dollars |\n|---|--:|--:|--:|\n" + "".join(rows)


async def test_the_readme_has_the_measured_gas() -> None:
    before, after = await measure()
    readme = (ROOT / "contracts" / "README.md").read_text()
    assert readme.partition(BEGIN)[2].partition(END)[0] == table(before, after)
    assert {name for name, old in before.items() if after[name] > DEARER * old} == EXCEPTIONS


if __name__ == "__main__":
    print(table(*asyncio.run(measure())))  # noqa: T201
