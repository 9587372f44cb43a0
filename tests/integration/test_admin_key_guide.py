"""The `sh` blocks of docs/admin-key.md run unchanged, section by section, on a dev chain.

Each section starts on a chain of its own, on which the accident has happened. The outcome is read
by foundry's cast.
"""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from eth_account import Account
from tests.anvil import Anvil, AnvilError, key_of
from tests.integration.test_admin_cli import ACCESS, verifier
from tests.integration.test_contract_cli import list_by_cast
from tests.integration.test_rights_cli import rights_by_cast

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.chain.account import keccak256

pytestmark = pytest.mark.anvil
GUIDE: Final = Path(__file__).parents[2] / "docs" / "admin-key.md"
POLICY: Final = '{"grants": [{"src": ["node:web-1"], "dst": ["tag:web"], "ip": ["tcp:443"]}]}'
MNEMONIC: Final = "test test test test test test test test test test test junk"
"""Anvil's, which is public."""
ACCOUNTS: Final = (
    *("owner", "minter", "holder", "spare", "next-spare", "new-minter", "new-holder"),
    *("policy-administrator", "unknown"),
)
"""The names of anvil's accounts: files of keys and variables have them."""


def sections() -> dict[str, list[str]]:
    """Return the blocks of commands by the title of their section."""
    parts = re.split(r"^## (.*)\n", GUIDE.read_text(), flags=re.MULTILINE)[1:]
    found = {
        title: re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


@dataclass(frozen=True)
class Shell:
    """A shell in the folder of keys."""

    anvil: Anvil
    folder: Path

    def account(self, name: str) -> str:
        return self.anvil.accounts[ACCOUNTS.index(name)].lower()

    def sender(self, name: str) -> int:
        return ACCOUNTS.index(name)

    @property
    def environment(self) -> dict[str, str]:
        variables = {name.replace("-", "_").upper(): self.account(name) for name in ACCOUNTS}
        return {
            **variables,
            "PATH": f"{self.folder}:{os.defpath}",
            "PYTHONPATH": os.pathsep.join(sys.path),  # the code of this process
            "NETWORK": "local",
            "RPC_URL": self.anvil.http,
            "CONTRACT_ADDRESS": self.anvil.contract,
            "PUBLIC_KEY": str(key_of(1)),
            "NEW_KEY": str(key_of(2)),
        }

    async def run(self, block: str) -> str:
        """Run a block; every command must succeed. Return its output."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", block),
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{block}\n{out.decode()}\n{err.decode()}"
        return out.decode()

    async def is_active(self, token: int, node_id: str, key: int, holder: str) -> bool:
        name, public_key, _, active = await verifier(self.anvil, ACCESS, str(token))
        (owner,) = await verifier(self.anvil, "ownerOf(uint256)(address)", str(token))
        assert (name, public_key, owner.lower()) == (node_id, str(key_of(key)), self.account(holder))
        return active == "true"


def prepare_folder(folder: Path, accounts: list[str]) -> None:
    """Write the keys of the accounts, and the program."""
    Account.enable_unaudited_hdwallet_features()
    for number, name in enumerate(ACCOUNTS):
        made = Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{number}")
        assert made.address.lower() == accounts[number].lower()
        file = folder / f"{name}.key"
        file.touch(0o600)
        file.write_text(made.key.hex())
    program = folder / "dstack-vpn"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dstack_vpn "$@"\n')
    program.chmod(0o755)
    rows = f"node_id,holder,public_key\nweb-1,{accounts[2]},{key_of(1)}\n"
    (folder / "nodes.csv").write_text(rows)
    (folder / "policy.json").write_text(POLICY)


@pytest.fixture
async def shell(anvil: Anvil, tmp_path: Path) -> Shell:
    """Return a shell for a registry with a minter, a policy administrator and the node web-1."""
    prepare_folder(tmp_path, anvil.accounts)
    shell = Shell(anvil, tmp_path)
    for call in (
        calls.define_tag("web"),
        calls.add_minter(shell.account("minter")),
        calls.add_policy_administrator(shell.account("policy-administrator")),
        calls.mint(shell.account("holder"), "web-1", key_of(1)),
        calls.set_tags(1, 1),
    ):
        await anvil.send(call)
    return shell


async def nothing(shell: Shell) -> None:
    """Leave the chain as it is."""


async def offer(shell: Shell) -> None:
    await shell.anvil.send(calls.transfer_contract_ownership(shell.account("spare")))


async def spy(shell: Shell, thief: str) -> None:
    """Register a node and revoke another one, with a stolen key."""
    sender = shell.sender(thief)
    await shell.anvil.send(calls.mint(shell.account("unknown"), "spy", key_of(9)), sender=sender)
    await shell.anvil.send(calls.revoke(1), sender=sender)


async def steal_owner(shell: Shell) -> None:
    await offer(shell)
    await spy(shell, "owner")
    await shell.anvil.send(calls.add_minter(shell.account("unknown")))
    await shell.anvil.send(calls.add_policy_administrator(shell.account("unknown")))


async def steal_policy_administrator(shell: Shell) -> None:
    opened = calls.set_policy('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}')
    await shell.anvil.send(opened, sender=shell.sender("policy-administrator"))


async def steal_minter(shell: Shell) -> None:
    await spy(shell, "minter")


async def steal_holder(shell: Shell) -> None:
    """Take the node's place with a key of the thief's own."""
    await shell.anvil.send(calls.update_key(1, key_of(9)), sender=shell.sender("holder"))


async def owner_is(shell: Shell, name: str) -> bool:
    return (await verifier(shell.anvil, "owner()(address)"))[0].lower() == shell.account(name)


async def check_before(shell: Shell, out: str) -> None:
    assert await owner_is(shell, "owner")
    (pending,) = await verifier(shell.anvil, "pendingOwner()(address)")
    assert pending.lower() == shell.account("spare")
    assert re.search(rf"^pending owner +{shell.account('spare')}", out, re.MULTILINE)
    assert '"web-1"' in (shell.folder / "nodes.json").read_text()


async def check_lost_owner(shell: Shell, out: str) -> None:
    assert await owner_is(shell, "spare")
    (pending,) = await verifier(shell.anvil, "pendingOwner()(address)")
    assert pending.lower() == shell.account("next-spare")


async def check_new_registry(shell: Shell, out: str) -> None:
    (new,) = set(re.findall(r"^NEW=(0x[0-9a-f]{40})$", out, re.MULTILINE))
    shell.anvil.contract = new
    assert await owner_is(shell, "spare")
    assert await shell.is_active(1, "web-1", 1, "holder")


async def check_migrated(shell: Shell, out: str) -> None:
    await check_new_registry(shell, out)
    assert await rights_by_cast(shell.anvil, 1) == (1, [])
    assert "web-1" in out


async def check_stolen_owner(shell: Shell, out: str) -> None:
    assert await owner_is(shell, "spare")
    assert await list_by_cast(shell.anvil, "minters") == [shell.account("minter")]
    assert await list_by_cast(shell.anvil, "policyAdministrators") == [shell.account("policy-administrator")]
    assert not await shell.is_active(2, "spy", 9, "unknown")
    assert await shell.is_active(3, "web-1", 1, "holder")
    assert await verifier(shell.anvil, "paused()(bool)") == ["false"]
    with pytest.raises(AnvilError, match="revert"):
        await shell.anvil.send(calls.pause(), sender=shell.sender("owner"))
    await check_new_registry(shell, out)


async def check_stolen_minter(shell: Shell, out: str) -> None:
    assert await list_by_cast(shell.anvil, "minters") == [shell.account("new-minter")]
    assert not await shell.is_active(2, "spy", 9, "unknown")
    assert await shell.is_active(3, "web-1", 1, "holder")
    assert (await rights_by_cast(shell.anvil, 3))[0] == 1
    assert await verifier(shell.anvil, "paused()(bool)") == ["false"]
    with pytest.raises(AnvilError, match="revert"):
        await shell.anvil.send(calls.revoke(3), sender=shell.sender("minter"))


async def check_stolen_policy_administrator(shell: Shell, out: str) -> None:
    assert await list_by_cast(shell.anvil, "policyAdministrators") == []
    (found,) = await verifier(shell.anvil, "policyHash()(bytes32)")
    assert found == "0x" + keccak256(POLICY.encode()).hex()


async def check_stolen_holder(shell: Shell, out: str) -> None:
    assert not await shell.is_active(1, "web-1", 9, "holder")
    assert await shell.is_active(2, "web-1", 2, "new-holder")
    assert (await rights_by_cast(shell.anvil, 2))[0] == 1


async def check_lost_holder(shell: Shell, out: str) -> None:
    assert await shell.is_active(1, "web-1", 1, "holder")
    (end,) = await verifier(shell.anvil, "expiresAt(uint256)(uint64)", "1")
    block = await shell.anvil.rpc("eth_getBlockByNumber", "latest", False)  # an RPC parameter
    assert abs(int(end) - int(block["timestamp"], 16) - 30 * 86_400) < 600


async def check_stolen_wireguard_key(shell: Shell, out: str) -> None:
    assert await shell.is_active(1, "web-1", 2, "holder")


Prepare = Callable[[Shell], Awaitable[None]]
Check = Callable[[Shell, str], Awaitable[None]]
CASES: Final[Mapping[str, tuple[Prepare, Check]]] = {
    "Before it happens": (nothing, check_before),
    "The owner's key is lost": (offer, check_lost_owner),
    "The owner's key is lost, without an offer": (nothing, check_migrated),
    "The owner's key is stolen": (steal_owner, check_stolen_owner),
    "A minter's key is stolen": (steal_minter, check_stolen_minter),
    "A policy administrator's key is stolen": (steal_policy_administrator, check_stolen_policy_administrator),
    "A holder's key is stolen": (steal_holder, check_stolen_holder),
    "A holder's key is lost": (nothing, check_lost_holder),
    "A node's WireGuard key is stolen": (nothing, check_stolen_wireguard_key),
}


def test_each_section_has_its_case() -> None:
    assert list(sections()) == list(CASES)


@pytest.mark.parametrize("title", CASES)
async def test_the_commands_of_the_guide_work(shell: Shell, title: str) -> None:
    prepare, check = CASES[title]
    await prepare(shell)
    # One shell for all blocks, as a reader has it; it shows the new registry for the check.
    out = await shell.run("\n".join([*sections()[title], 'echo "NEW=${NEW-}"']))
    await check(shell, out)
