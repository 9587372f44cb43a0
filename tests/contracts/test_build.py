"""The artifacts match the sources, and the tests name each part of the contract."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.contracts.evm import ROOT, load

CONTRACTS = ROOT / "contracts"
TESTS = Path(__file__).parent

# OpenZeppelin's, and unreachable: tokens are never minted twice or by the zero address, the EIP-712
# domain never changes and its name is short, and multicall calls this contract only.
UNREACHABLE = {
    "ERC721InvalidSender",
    "EIP712DomainChanged",
    "InvalidShortString",
    "StringTooLong",
    "AddressEmptyCode",
    "FailedCall",
}


def build(*args: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("node") is None or not (CONTRACTS / "node_modules").is_dir():
        pytest.skip("ARTIFACTS NOT CHECKED: needs node, and 'npm ci' in contracts/")
    command = ["node", "build.mjs", *args]
    return subprocess.run(command, cwd=CONTRACTS, capture_output=True, text=True, check=False, timeout=110)


def test_the_artifacts_are_current() -> None:
    result = build("--check")
    assert result.returncode == 0, result.stderr


def test_the_lock_names_no_download_address() -> None:
    assert '"resolved"' not in (CONTRACTS / "package-lock.json").read_text()


@pytest.mark.parametrize("kind", ["function", "error", "event"])
def test_every_part_of_the_contract_is_named_in_a_test(kind: str) -> None:
    sources = "".join(path.read_text() for path in TESTS.glob("test_*.py"))
    names = {item["name"] for item in load("AccessRegistry")["abi"] if item["type"] == kind} - UNREACHABLE
    assert {name for name in names if not re.search(rf"\"{name}[\"(]", sources)} == set()
