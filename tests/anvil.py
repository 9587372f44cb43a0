"""A real dev chain for tests: anvil as a child process, with the registry contract.

anvil is searched in $ANVIL, on the PATH, and where `make` installs it. Each chain has a separate
home directory, because anvil otherwise fills the user's with gigabytes of old states.
"""

import asyncio
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import pytest
from tests.ports import free_port

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.keys import PublicKey

_INSTALLED = Path(__file__).parent.parent / ".cache" / "npm" / "node_modules" / ".bin" / "anvil"
_GAS = 30_000_000
_START_TIMEOUT = 20.0


def anvil_path() -> str | None:
    """Return the path of anvil; None if it is missing."""
    named = os.environ.get("ANVIL")  # noqa: TID251  # a setting of the tests, not of the product
    found = named or shutil.which("anvil") or (str(_INSTALLED) if _INSTALLED.exists() else None)
    return None if found is None else _program(Path(found))


def _program(path: Path) -> str:
    """Return the program behind npm's ``anvil``.

    npm's is a script that ends at once on a signal, while the program first writes its state.
    """
    folders = (parent for parent in path.resolve().parents if parent.name == "node_modules")
    programs = (program for folder in folders for program in folder.glob("@foundry-rs/anvil-*/bin/anvil"))
    return str(next(programs, path))


def key_of(number: int) -> PublicKey:
    """Return the public key of a number. Different numbers have different keys."""
    return PublicKey((number + 1).to_bytes(32, "little"))


class AnvilError(Exception):
    """An error of anvil, or a reverted transaction."""


def _announced_port(output: Path) -> int | None:
    found = re.search(r"^Listening on .*:(\d+)$", output.read_text("utf-8", "replace"), re.MULTILINE)
    return None if found is None else int(found[1])


@dataclass
class Anvil:
    """A dev chain. Its state survives ``stop`` and ``start`` only if it is ``durable``."""

    home: Path
    arguments: Sequence[str] = ()
    durable: bool = False
    port: int = field(default_factory=free_port)
    accounts: list[str] = field(default_factory=list)
    contract: str = ""
    process: asyncio.subprocess.Process | None = None
    born: int = field(default_factory=lambda: int(time.time()))  # noqa: TID251  # a test's own clock
    _client: aiohttp.ClientSession | None = None
    _ids: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start anvil on its port, which is the same after an outage."""
        anvil = anvil_path()
        assert anvil is not None
        # A file, not a pipe: anvil logs each call, and blocks when a pipe is full.
        output = self.home / "anvil.log"
        with output.open("wb") as log:
            self.process = await self._spawn(anvil, log)
        self._client = aiohttp.ClientSession()
        async with asyncio.timeout(_START_TIMEOUT):
            self.port = await self._listening(output)
        self.accounts = await self.rpc("eth_accounts")

    async def _spawn(self, anvil: str, log: BinaryIO) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(anvil, "--host", "127.0.0.1", "--port", str(self.port), "--prune-history", "1000"),
            *("--slots-in-an-epoch", "1", *self._state(), *self.arguments),
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            stdin=asyncio.subprocess.DEVNULL,
            env={
                "PATH": os.defpath + ":/usr/local/bin",
                "HOME": str(self.home),
                "FOUNDRY_HOME": str(self.home),
            },
            start_new_session=True,  # so that a signal ends a wrapper together with the real anvil
        )

    def _state(self) -> tuple[str, ...]:
        """Return the options for a durable state.

        A state does not include the genesis block. The hash of that block depends on the timestamp,
        so the timestamp must stay the same.
        """
        state = ("--state", str(self.home / "state.json"), "--timestamp", str(self.born))
        return state if self.durable else ()

    async def _listening(self, output: Path) -> int:
        """Wait until anvil listens, and return its port."""
        while (port := _announced_port(output)) is None:
            if self.process is None or self.process.returncode is not None:
                raise AnvilError("anvil exited before it listened; run it by hand to see the reason")
            await asyncio.sleep(0.01)
        return port

    async def stop(self) -> None:
        """Stop anvil, by SIGTERM if it is durable, so that it writes its state; else by SIGKILL."""
        if self._client is not None:
            await self._client.close()
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM if self.durable else signal.SIGKILL)
            await self.process.wait()
            self.process = None

    async def rpc(self, method: str, *params: Any) -> Any:
        assert self._client is not None
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        async with self._client.post(self.http, json=body) as response:
            reply = await response.json()
        if "error" in reply:
            raise AnvilError(f"{method}: {reply['error']}")
        return reply["result"]

    async def send(self, data: bytes, *, sender: int = 0, to: str | None = None) -> dict[str, Any]:
        """Mine a transaction to the contract, or to ``to``; return its receipt.

        Raises `AnvilError` if it reverts.
        """
        transaction = {"from": self.accounts[sender], "data": "0x" + data.hex(), "gas": hex(_GAS)}
        recipient = to if to is not None else self.contract
        if recipient:
            transaction["to"] = recipient
        receipt: dict[str, Any] = await self.rpc("eth_sendTransactionSync", transaction)
        if receipt["status"] != "0x1":
            raise AnvilError(f"the transaction {receipt['transactionHash']} reverted")
        return receipt

    async def deploy(self) -> str:
        """Deploy the registry, owned by account 0."""
        receipt = await self.send(calls.deploy(self.accounts[0]), to="")
        self.contract = receipt["contractAddress"].lower()
        return self.contract

    async def mint(self, number: int, *, owner: int = 1) -> dict[str, Any]:
        """Mint ``node-<number>`` with the key of this number."""
        return await self.send(calls.mint(self.accounts[owner], f"node-{number}", key_of(number)))

    async def revoke(self, token: int) -> dict[str, Any]:
        return await self.send(calls.revoke(token))

    async def mine(self, blocks: int = 1) -> None:
        await self.rpc("anvil_mine", hex(blocks))

    async def mine_at(self, time: int) -> None:
        """Mine a block with this time, in Unix seconds. Later blocks go on from there.

        ``evm_increaseTime`` is not exact: anvil reads the clock twice at its start, and its time
        is a second or more behind if these readings are not in the same second.
        """
        await self.rpc("evm_setNextBlockTimestamp", time)
        await self.mine()

    async def mine_every(self, seconds: int) -> None:
        """Mine a block at an interval from now on (0: only for transactions)."""
        await self.rpc("evm_setIntervalMining", seconds)

    async def reorg(self, depth: int) -> None:
        """Replace the last ``depth`` blocks by empty ones."""
        await self.rpc("anvil_reorg", depth, [])

    async def mint_many(self, count: int, *, first: int = 0, per_block: int = 75) -> None:
        """Mint many nodes in few blocks, because anvil slows down with each block."""
        await self.rpc("evm_setAutomine", False)  # an RPC parameter
        for start in range(first, first + count, per_block):
            for number in range(start, min(start + per_block, first + count)):
                data = calls.mint(self.accounts[1], f"node-{number}", key_of(number))
                transaction = {"from": self.accounts[0], "to": self.contract, "data": "0x" + data.hex()}
                await self.rpc("eth_sendTransaction", {**transaction, "gas": hex(400_000)})
            await self.mine()
        await self.rpc("evm_setAutomine", True)  # an RPC parameter


@asynccontextmanager
async def running_anvil(*arguments: str, deploy: bool = True, durable: bool = False) -> AsyncIterator[Anvil]:
    """Run anvil during the context; skip the test with a message if anvil is missing."""
    if anvil_path() is None:
        pytest.skip("NO ANVIL: tests on a real dev chain are SKIPPED; run scripts/setup test, or set ANVIL")
    with tempfile.TemporaryDirectory(prefix="anvil-") as home:
        anvil = Anvil(Path(home), arguments, durable)
        try:
            await anvil.start()
            if deploy:
                await anvil.deploy()
            yield anvil
        finally:
            await anvil.stop()


__all__ = ["Anvil", "AnvilError", "anvil_path", "key_of", "running_anvil"]
