"""The admin commands on a real dev chain, checked with foundry's cast.

Most commands run in a thread of this process, because the start of an interpreter takes longer than
the command. The tests of the process itself (missing libraries, terminals, the first deployment)
start an interpreter.
"""

import asyncio
import json
import os
import pty
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import Anvil, anvil_path, key_of
from tests.commands import Result, forgotten_logging, run_here

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.abi import encode

pytestmark = pytest.mark.anvil

# anvil's accounts 0 to 2, from its public mnemonic.
KEYS = (
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
)
ZERO = "0x" + "0" * 40
DEPLOYED = Path(__file__).parents[1] / "contracts" / "artifacts" / "DstackAccessNFT.json"
WITHOUT_EXTRA = """
import sys
sys.modules["eth_account"] = None
from dstack_vpn.cli import run
sys.exit(run(sys.argv[1:]))
"""


class Ran(Result):
    """The result of a command."""

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Return the only line with an error."""
        (line,) = (line for line in self.err.splitlines() if line.startswith(("error: ", "Error: ")))
        return line


@dataclass
class User:
    """A user of the commands, on one chain."""

    anvil: Anvil

    def environment(self, account: int | None, more: Mapping[str, str]) -> dict[str, str]:
        key = {} if account is None else {"CONTRACT_PRIVATE_KEY": KEYS[account]}
        return {
            "PATH": os.defpath,
            "NETWORK": "local",
            "RPC_URL": self.anvil.http,
            "CONTRACT_ADDRESS": self.anvil.contract or ZERO,
            **key,
            **more,
        }

    async def __call__(self, *arguments: str, by: int | None = None, code: int = 0, **more: str) -> Ran:
        """Run a command in this process, with the account's key, and check its exit code."""
        done = await asyncio.to_thread(run_here, arguments, self.environment(by, more))
        ran = checked(Ran(done.code, done.out, done.err))
        assert ran.code == code, ran
        return ran

    async def spawn(self, arguments: tuple[str, ...], environment: dict[str, str]) -> Ran:
        """Run Python with these arguments as a process."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return checked(Ran(process.returncode, out.decode(), err.decode()))

    async def register(self, number: int, *more: str) -> int:
        """Register a node for account 1 and return its token."""
        arguments = ("--to", self.anvil.accounts[1], "--public-key", str(key_of(number)), "--json", *more)
        token: int = (await self("node", "register", f"node-{number}", *arguments, by=0)).json["token"]
        return token

    async def nonces(self) -> list[str]:
        """Return the number of transactions that each account has sent."""
        return [await self.anvil.rpc("eth_getTransactionCount", a, "latest") for a in self.anvil.accounts[:3]]


def checked(ran: Ran) -> Ran:
    """Return the result if it shows neither a private key nor a traceback."""
    assert not any(key[2:] in ran.out + ran.err for key in KEYS)
    assert "Traceback" not in ran.err, ran.err
    return ran


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


def cast_path() -> str | None:
    anvil = anvil_path()
    near = (
        []
        if anvil is None
        else [Path(anvil).parent, *(d / "bin" for d in Path(anvil).parents[2].glob("cast-*"))]
    )
    found = next((str(d / "cast") for d in near if (d / "cast").exists()), None)
    return found or shutil.which("cast")


async def verifier(anvil: Anvil, signature: str, *arguments: str) -> list[str]:
    """Return the values of the contract's reply by cast; skip the test without cast."""
    out = await reply_by_cast(anvil, signature, *arguments)
    return [line.split(" [")[0].strip('"') for line in out.splitlines()]


async def reply_by_cast(anvil: Anvil, signature: str, *arguments: str) -> str:
    """Return the contract's reply as cast prints it; skip the test without cast."""
    cast = cast_path()
    if cast is None:
        pytest.skip("NO CAST beside anvil or on the PATH: the independent witness is SKIPPED")
    process = await asyncio.create_subprocess_exec(
        *(cast, "call", anvil.contract, signature, *arguments, "--rpc-url", anvil.http),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "HOME": str(anvil.home), "FOUNDRY_HOME": str(anvil.home)},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


ACCESS = "getNodeAccess(uint256)(string,string,uint256,bool)"


# -- success ---------------------------------------------------------------------------------------


async def test_a_contract_is_deployed_and_belongs_to_whom_it_should(user: User) -> None:
    anvil = user.anvil
    deploy = ("-m", "dstack_vpn", "contract", "deploy", "--owner", anvil.accounts[2], "--json")
    ran = await user.spawn(deploy, user.environment(0, {}))
    assert ran.code == 0, ran
    assert "simulating" in ran.err and ran.json["transaction"] in ran.err
    anvil.contract = ran.json["address"]
    assert await verifier(anvil, "owner()(address)") == [_checksummed(anvil.accounts[2])]
    receipt = await anvil.rpc("eth_getTransactionReceipt", ran.json["transaction"])
    assert int(receipt["gasUsed"], 16) == ran.json["gas_used"]
    assert int(receipt["blockNumber"], 16) == ran.json["block"]
    plain = await user(
        "contract", "deploy", by=1, NETWORK="base-sepolia", CHAIN_ID="31337", CONTRACT_ADDRESS=""
    )
    anvil.contract = re.findall(r"CONTRACT_ADDRESS=(0x[0-9a-f]{40})", plain.out)[0]
    assert await verifier(anvil, "owner()(address)") == [_checksummed(anvil.accounts[1])]


async def test_a_node_lives_and_ends(user: User) -> None:
    anvil = user.anvil
    token = await user.register(1)
    name, key, _, active = await verifier(anvil, ACCESS, str(token))
    assert (name, key, active) == ("node-1", str(key_of(1)), "true")

    await user("node", "update-key", "node-1", "--public-key", str(key_of(7)), by=1)
    assert (await verifier(anvil, ACCESS, str(token)))[1] == str(key_of(7))

    await user("node", "set-endpoint", str(token), "vpn.example.org:51820", by=1)
    assert (await user("node", "info", "node-1", "--json")).json["endpoint"] == "vpn.example.org:51820"
    await user("node", "set-endpoint", "node-1", "", by=1)
    assert (await user("node", "info", "node-1", "--json")).json["endpoint"] is None

    ran = await user("node", "set-expiry", "token:1", "2100-01-01", "--json", by=0)
    assert await verifier(anvil, "expiresAt(uint256)(uint64)", "1") == ["4102444800"]
    assert ran.json["expires_at"] == 4102444800
    await user("node", "set-expiry", "node:node-1", "never", by=0)
    assert await verifier(anvil, "expiresAt(uint256)(uint64)", "1") == ["0"]

    await user("node", "transfer", "node-1", "--to", _checksummed(anvil.accounts[2]), "--yes", by=1)
    assert await verifier(anvil, "ownerOf(uint256)(address)", "1") == [_checksummed(anvil.accounts[2])]
    assert "no key" in (await user("node", "verify", "node-1", code=1)).out
    await user("node", "update-key", "node-1", "--public-key", str(key_of(8)), by=2)
    await user("node", "verify", "node-1")

    await user("node", "revoke", "node-1", "-y", by=0)
    assert (await verifier(anvil, ACCESS, "1"))[3] == "false"
    assert (await user("node", "info", "node-1", "--json")).json["active"] is False


async def test_verify_answers_by_any_name_with_a_reason(user: User) -> None:
    await user.register(1, "--endpoint", "db.example.org:51820")
    info = (await user("node", "info", "1", "--json")).json
    assert info["uri_endpoint"] == "db.example.org:51820"
    for name in ("node-1", "1", str(key_of(1)), *info["addresses"]):
        found = (await user("node", "verify", name, "--json")).json
        assert found["granted"] and found["reason"] == "active" and found["node"]["token"] == 1, name
    await user("node", "set-expiry", "1", "+1m", by=0)
    await user.anvil.rpc("evm_increaseTime", 120)
    for name in ("node-2", "77", str(key_of(2)), "10.77.99.99"):
        found = (await user("node", "verify", name, "--json", code=1)).json
        assert (found["granted"], found["reason"], found["node"]) == (False, "unknown", None), name
    assert "belongs to no token" in (await user("node", "verify", "192.0.2.1", code=1)).error


async def test_list_and_plan_tell_everybody(user: User) -> None:
    for number in (1, 2, 3):
        await user.register(number)
    await user("node", "revoke", "2", "--yes", by=0)
    listed = (await user("node", "list", "--json")).json["nodes"]
    assert [(n["node_id"], n["granted"]) for n in listed] == [
        ("node-1", True),
        ("node-2", False),
        ("node-3", True),
    ]
    assert re.search(r"^2 +node-2 .* revoked", (await user("node", "list")).out, re.MULTILINE)

    plan = (await user("plan", "--json", INTERFACE="dvpn-none")).json
    assert [(c["action"], c["node_id"], c["reason"]) for c in plan["changes"]] == [
        ("add", "node-1", "active"),
        ("add", "node-3", "active"),
    ]
    assert plan["no_peers"] == [{"token": 2, "node_id": "node-2", "reason": "revoked"}]
    assert any("the interface dvpn-none does not exist" in note for note in plan["notes"])
    shown = (await user("plan", INTERFACE="dvpn-none")).out
    assert "2 changes" in shown and str(key_of(3)) in shown and "revoked" in shown
    assert "dvpn-none" not in [name for _, name in socket.if_nameindex()]  # nothing was created


# -- refusals --------------------------------------------------------------------------------------


async def test_every_revert_is_told_by_its_name_and_nothing_is_sent(user: User) -> None:
    anvil = user.anvil
    for number in (1, 2):
        await user.register(number)
    await user("node", "revoke", "2", "--yes", by=0)
    a, k9 = anvil.accounts, str(key_of(9))
    before = await user.nonces()

    async def refused(expected: str, *arguments: str, by: int) -> None:
        ran = await user(*arguments, by=by, code=1)
        assert ran.error == f"error: the contract refused: {expected}; nothing was sent"

    def register(name: str, key: str, to: str = a[1]) -> tuple[str, ...]:
        return ("node", "register", name, "--to", to, "--public-key", key)

    await refused('NodeIdTaken("node-1", 1)', *register("node-1", k9), by=0)
    await refused("InvalidNodeId()", *register("Upper.Case", k9), by=0)
    await refused(f"NotMinter({a[2]})", *register("other", k9), by=2)
    await refused(f"ERC721InvalidReceiver({ZERO})", *register("other", k9, ZERO), by=0)
    await refused(f"NotHolder(1, {a[0]})", "node", "update-key", "1", "--public-key", k9, by=0)
    await refused("NodeIsRevoked(2)", "node", "update-key", "node-2", "--public-key", k9, by=1)
    await refused(f"NotHolder(1, {a[2]})", "node", "set-endpoint", "1", "a.example:1", by=2)
    await refused("NodeIsRevoked(2)", "node", "set-endpoint", "2", "", by=1)
    await refused(f"NotMinter({a[1]})", "node", "set-expiry", "1", "+1d", by=1)
    await refused("NodeIsRevoked(2)", "node", "set-expiry", "2", "never", by=0)
    await refused(f"NotMinter({a[1]})", "node", "revoke", "1", "--yes", by=1)
    await refused("NodeIsRevoked(2)", "node", "revoke", "2", "--yes", by=0)
    transfer = ("node", "transfer", "1", "--yes", "--to")
    await refused(f"ERC721InsufficientApproval({a[0]}, 1)", *transfer, a[2], by=0)
    await refused(f"ERC721InvalidReceiver({ZERO})", *transfer, ZERO, by=1)
    await refused("NodeIsRevoked(2)", "node", "transfer", "2", "--yes", "--to", a[2], by=1)
    await refused(f"OwnableInvalidOwner({ZERO})", "contract", "deploy", "--owner", ZERO, by=0)
    past = await user("node", "set-expiry", "1", "1000000000", by=0, code=1)
    assert "refused: ExpiryInPast(1000000000, " in past.error
    assert await user.nonces() == before

    await anvil.send(calls.pause())
    before = await user.nonces()
    await refused("EnforcedPause()", *register("other", k9), by=0)
    assert await user.nonces() == before


async def test_what_would_be_sent_to_the_wrong_place_is_not(user: User) -> None:
    await user.register(1)
    before = await user.nonces()
    new_key = ("node", "update-key", "1", "--public-key", str(key_of(2)))
    assert "chain 31337, but chain 1 is" in (await user(*new_key, by=1, code=1, CHAIN_ID="1")).error
    assert (
        "chain 31337, but chain 1 is" in (await user("contract", "deploy", by=1, code=1, CHAIN_ID="1")).error
    )
    empty = await user(*new_key, by=1, code=1, CONTRACT_ADDRESS="0x" + "1" * 40)
    assert "there is no contract at 0x1111" in empty.error
    typo = _checksummed(user.anvil.accounts[2]).swapcase().replace("0X", "0x")
    ran = await user("node", "transfer", "1", "--yes", "--to", typo, by=1, code=1)
    assert "EIP-55" in ran.error
    assert "no such node" in (await user("node", "revoke", "nobody", "--yes", by=0, code=1)).error
    assert "--yes" in (await user("node", "revoke", "1", by=0, code=1)).error
    assert await user.nonces() == before


async def test_an_account_without_funds_is_told_before_anything_is_sent(user: User) -> None:
    await user.anvil.rpc("anvil_setBalance", user.anvil.accounts[1], hex(10**12))
    await user.register(1)
    ran = await user("node", "set-endpoint", "1", "a.example:1", by=1, code=1)
    assert re.search(
        r"has 0\.000001 ETH, but the transaction may cost up to 0\.\d+ ETH; nothing was", ran.error
    )


async def test_a_transaction_that_is_not_mined_in_time_is_told_by_its_hash(user: User) -> None:
    await user.register(1)
    await user.anvil.rpc("evm_setAutomine", False)  # an RPC parameter
    ran = await user("node", "revoke", "1", "--yes", "--timeout", "1", by=0, code=75)
    (transaction,) = set(re.findall(r"0x[0-9a-f]{64}", ran.error))
    assert "not seen in a block within 1 s. It may have been mined, or may still be" in ran.error
    await user.anvil.mine()
    assert (await user.anvil.rpc("eth_getTransactionReceipt", transaction))["status"] == "0x1"
    assert "revoked" in (await user("node", "verify", "1", code=1)).out


async def test_what_comes_between_simulation_and_block_is_told(user: User) -> None:
    anvil = user.anvil
    await user.register(1)
    await anvil.send(calls.add_minter(anvil.accounts[2]))
    await anvil.rpc("evm_setAutomine", False)  # an RPC parameter
    async with asyncio.TaskGroup() as group:
        ours = group.create_task(user("node", "revoke", "1", "--yes", by=0, code=1))
        async with asyncio.timeout(30):
            while not int((await anvil.rpc("txpool_status"))["pending"], 16):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.02)
        # A transaction with a higher fee comes first.
        await anvil.rpc(
            "eth_sendTransaction",
            {
                "from": anvil.accounts[2],
                "to": anvil.contract,
                "data": "0x" + calls.revoke(1).hex(),
                "gas": hex(200_000),
                "maxFeePerGas": hex(500 * 10**9),
                "maxPriorityFeePerGas": hex(400 * 10**9),
            },
        )
        await anvil.mine()
    error = ours.result().error
    assert error.endswith("was mined but changed nothing: the contract refused: NodeIsRevoked(1)"), error


# -- keys, extras, endpoints -----------------------------------------------------------------------


async def test_a_key_is_needed_only_to_send_and_never_shown(user: User, tmp_path: Path) -> None:
    await user.register(1)
    missing = await user("node", "revoke", "1", "--yes", code=78)
    assert "CONTRACT_PRIVATE_KEY (or CONTRACT_PRIVATE_KEY_FILE): is not set" in missing.err
    for bad in ("0x" + "0" * 64, "f" * 64, "0x12", "abc\ndef"):
        ran = await user("node", "revoke", "1", "--yes", code=78, CONTRACT_PRIVATE_KEY=bad)
        assert bad not in ran.err and "CONTRACT_PRIVATE_KEY" in ran.err
    file = tmp_path / "key"
    file.write_text(KEYS[0] + "\n")
    file.chmod(0o644)
    ran = await user("node", "revoke", "1", "--yes", code=78, CONTRACT_PRIVATE_KEY_FILE=str(file))
    assert "can be read by others" in ran.err
    file.chmod(0o600)
    await user("node", "revoke", "1", "--yes", CONTRACT_PRIVATE_KEY_FILE=str(file))


async def test_reading_needs_no_extra_and_sending_says_which(user: User) -> None:
    await user.register(1)
    for arguments, code in ((("node", "verify", "1"), 0), (("node", "list"), 0), (("plan",), 0)):
        ran = await user.spawn(("-c", WITHOUT_EXTRA, *arguments), user.environment(None, {}))
        assert ran.code == code, ran
    ran = await user.spawn(("-c", WITHOUT_EXTRA, "node", "revoke", "1", "--yes"), user.environment(0, {}))
    assert ran.code == 1 and "pip install 'dstack-vpn[admin]'" in ran.error


async def test_another_endpoint_is_taken_where_one_fails(user: User) -> None:
    await user.register(1)
    urls = f"http://127.0.0.1:9/secretkey123,{user.anvil.ws}"
    await user("node", "verify", "1", RPC_URL=urls)
    await user("node", "revoke", "1", "--yes", by=0, RPC_URL=urls)
    ran = await user("node", "verify", "1", code=1, RPC_URL="http://127.0.0.1:9/secretkey123")
    assert "127.0.0.1:9" in ran.error and "secretkey123" not in ran.err


# -- the deployed contract -------------------------------------------------------------------------


async def test_the_deployed_contract_does_what_it_can(user: User) -> None:
    anvil = user.anvil
    creation = bytes.fromhex(json.loads(DEPLOYED.read_text())["bytecode"].removeprefix("0x"))
    receipt = await anvil.send(creation + encode(0, 1, 0, 1), to="")
    anvil.contract = receipt["contractAddress"].lower()
    assert await user.register(1, "--endpoint", "db.example.org:51820") == 1
    await user.register(2)
    info = (await user("node", "info", "node-1", "--json")).json
    assert (info["token"], info["uri_endpoint"]) == (1, "db.example.org:51820")
    ran = await user("node", "verify", "node-1")
    assert "granted" in ran.out and "can't enumerate" in ran.err
    assert (await user("node", "verify", info["addresses"][0], "--json")).json["granted"]

    before = await user.nonces()
    for arguments in (
        ("update-key", "1", "--public-key", str(key_of(9))),
        ("set-endpoint", "1", "a.example:1"),
        ("set-expiry", "1", "+1d"),
    ):
        ran = await user("node", *arguments, by=1, code=1)
        assert "the contract is a dstack-access-nft, which can't" in ran.error
    for question in (("list",), ("verify", str(key_of(1)))):
        assert "does not enumerate" in (await user("node", *question, code=1)).error
    assert await user.nonces() == before

    assert len((await user("plan", "--json", INTERFACE="dvpn-none")).json["changes"]) == 2
    await user("node", "transfer", "1", "--yes", "--to", anvil.accounts[2], by=1)
    assert await verifier(anvil, "ownerOf(uint256)(address)", "1") == [_checksummed(anvil.accounts[2])]
    await user("node", "revoke", "node-2", "--yes", by=0)
    assert "revoked" in (await user("node", "verify", "2", code=1)).out
    assert len((await user("plan", "--json", INTERFACE="dvpn-none")).json["changes"]) == 0
    reason = "the contract refused: reverted: "
    assert reason in (await user("node", "revoke", "1", "--yes", by=1, code=1)).error


# -- terminals -------------------------------------------------------------------------------------


async def test_in_a_terminal_it_asks_and_shows_progress(user: User) -> None:
    await user.register(1)
    code, shown = await in_terminal(user, b"n\n", "node", "revoke", "1")
    assert code == 1 and "Revoke node-1 (token 1)" in shown and "nothing was changed" in shown
    code, shown = await in_terminal(user, b"y\n", "node", "revoke", "1")
    assert code == 0 and "is revoked" in shown and "waiting for transaction 0x" in shown


async def in_terminal(user: User, typed: bytes, *arguments: str, columns: int = 200) -> tuple[int, str]:
    """Run a command with a terminal for all streams; return its exit code and its output."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    environment = {**user.environment(0, {}), "TERM": "xterm", "COLUMNS": str(columns)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dstack_vpn", *arguments),
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),  # type: ignore[arg-type]  # the values are not strings
        env=environment,
    )
    os.close(theirs)
    shown = await asyncio.to_thread(_drain, ours)
    os.close(ours)
    return await process.wait(), shown.decode(errors="replace")


def _drain(descriptor: int) -> bytes:
    pieces = b""
    with suppress(OSError):  # EIO after the other side has closed
        while piece := os.read(descriptor, 65536):
            pieces += piece
    return pieces


def _checksummed(address: str) -> str:
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))
