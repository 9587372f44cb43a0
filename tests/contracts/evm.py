"""Contracts in an in-process EVM (pyrevm), called by eth-abi, which is independent of our encoder.

pyrevm has wheels for CPython 3.11 and 3.12 only. On other versions, all tests that import this
module are skipped with a message.
"""

import base64
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode, encode

if sys.version_info >= (3, 13) and importlib.util.find_spec("pyrevm") is None:
    pytest.skip("CONTRACT TESTS SKIPPED: pyrevm has no wheel for this Python", allow_module_level=True)

import pyrevm

ROOT = Path(__file__).parents[2]
ARTIFACTS = {
    "AccessRegistry": ROOT / "src/dstack_vpn/adapters/contracts/artifacts/AccessRegistry.json",
    "AccessRegistryV1": ROOT / "tests/contracts/artifacts/AccessRegistryV1.json",
    "ContractSigner": ROOT / "tests/contracts/artifacts/ContractSigner.json",
    "DstackAccessNFT": ROOT / "tests/contracts/artifacts/DstackAccessNFT.json",
    "Multicall3": ROOT / "tests/contracts/artifacts/Multicall3.json",
}
START = 1_800_000_000
OWNER, ALICE, BOB, CAROL, DAVE = (f"0x{digit * 40}" for digit in "abcde")
ZERO = f"0x{0:040x}"


@cache
def load(contract: str) -> dict[str, Any]:
    artifact: dict[str, Any] = json.loads(ARTIFACTS[contract].read_text())
    return artifact


def abi_type(item: dict[str, Any]) -> str:
    kind: str = item["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(map(abi_type, item['components']))}){kind[5:]}"


def signature(item: dict[str, Any]) -> str:
    return f"{item['name']}({','.join(map(abi_type, item['inputs']))})"


class Reverted(Exception):  # noqa: N818 - an outcome, not an error of the test
    """The call reverted; ``error`` is the named error with its arguments, ``data`` its encoding."""

    def __init__(self, error: tuple[Any, ...], data: bytes) -> None:
        super().__init__(error)
        self.error = error
        self.data = data


@dataclass(frozen=True)
class RawLog:
    topics: tuple[str, ...]
    data: bytes


class Chain:
    """An EVM with a clock."""

    def __init__(self) -> None:
        self.evm = pyrevm.EVM()
        self.now = START
        self.number = 100
        self.mine(0)

    def mine(self, seconds: int = 1, blocks: int = 1) -> None:
        self.now += seconds
        self.number += blocks
        self.evm.set_block_env(pyrevm.BlockEnv(number=self.number, timestamp=self.now))

    def deploy(self, name: str, *args: Any, sender: str = OWNER) -> "Contract":
        artifact = load(name)
        types = [
            abi_type(x) for item in artifact["abi"] if item["type"] == "constructor" for x in item["inputs"]
        ]
        code = bytes.fromhex(artifact["bytecode"][2:]) + encode(types, args)
        with _reverts_of(artifact):
            return Contract(self, self.evm.deploy(sender, code), artifact)


class _reverts_of:  # noqa: N801 - used like a function
    """Translates pyrevm's error, which has the revert data only in its text."""

    def __init__(self, artifact: dict[str, Any]) -> None:
        self._artifact = artifact

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        found = re.search(r"Revert \{.*output: 0x([0-9a-f]*)", str(error)) if error else None
        if found:
            data = bytes.fromhex(found[1])
            raise Reverted(self._named(data), data) from None

    def _named(self, data: bytes) -> tuple[Any, ...]:
        selectors = {bytes.fromhex(value[2:]): text for text, value in self._artifact["errors"].items()}
        text = selectors.get(data[:4])
        if text is None:
            return ("Error", data)
        name, _, types = text.removesuffix(")").partition("(")
        return (name, *decode(types.split(",") if types else [], data[4:]))


class Contract:
    """A deployed contract. A function is called by its name, or its signature if ambiguous."""

    def __init__(self, chain: Chain, address: str, artifact: dict[str, Any]) -> None:
        self.chain = chain
        self.address = address
        self.raw_logs: list[RawLog] = []
        self.gas = 0
        self._artifact = artifact
        abi = artifact["abi"]
        self._functions = {x["name"]: x for x in abi if x["type"] == "function"}
        self._functions |= {signature(x): x for x in abi if x["type"] == "function"}
        self._events = {artifact["events"][signature(x)]: x for x in abi if x["type"] == "event"}

    def calldata(self, function: str, *args: Any) -> bytes:
        item = self._functions[function]
        selector = bytes.fromhex(self._artifact["functions"][signature(item)][2:])
        return selector + encode([abi_type(x) for x in item["inputs"]], args)

    def raw(
        self, data: bytes, sender: str = OWNER, *, is_static: bool = False, gas: int | None = None
    ) -> bytes:
        with _reverts_of(self._artifact):
            evm = self.chain.evm
            return bytes(evm.message_call(sender, self.address, data, gas=gas, is_static=is_static))

    async def eth_call(self, data: bytes) -> bytes | None:
        """Return the result, or None for a revert, as the adapters' callers expect."""
        try:
            return self.raw(data, is_static=True)
        except Reverted:
            return None

    def call(self, function: str, *args: Any, sender: str = OWNER) -> Any:
        reply = self.raw(self.calldata(function, *args), sender, is_static=True)
        values = decode([abi_type(x) for x in self._functions[function]["outputs"]], reply)
        return values[0] if len(values) == 1 else values

    def send(self, function: str, *args: Any, sender: str = OWNER) -> list[tuple[Any, ...]]:
        """Return the transaction's events as (name, arguments…)."""
        self.raw(self.calldata(function, *args), sender)
        result = self.chain.evm.result
        assert result is not None
        self.gas = result.gas_used
        self.raw_logs = [RawLog(tuple(log.topics), bytes(log.data[1])) for log in result.logs]
        return [tuple(self._event(log)) for log in self.raw_logs]

    def _event(self, log: RawLog) -> Iterator[Any]:
        item = self._events[log.topics[0]]
        inputs = item["inputs"]
        plain = iter(decode([abi_type(x) for x in inputs if not x["indexed"]], log.data))
        topics = iter(log.topics[1:])
        yield item["name"]
        for x in inputs:
            raw = bytes.fromhex(next(topics)[2:]) if x["indexed"] else b""
            yield decode([abi_type(x)], raw)[0] if x["indexed"] else next(plain)


def key(number: int) -> str:
    """Return the key of a number, in base64."""
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def view(contract: Contract, token_id: int) -> dict[str, Any]:
    """Return `getNode` by field names."""
    item = next(x for x in contract._artifact["abi"] if x.get("name") == "getNode")
    names = [x["name"] for x in item["outputs"][0]["components"]]
    return dict(zip(names, contract.call("getNode", token_id), strict=True))
