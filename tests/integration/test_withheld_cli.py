"""Every writing command without its transaction: --dry-run and --calldata, checked with cast."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import Anvil, key_of
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import ACCESS, User, cast_path, verifier
from tests.unit.cli.test_secrets import COMMANDS

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = pytest.mark.anvil
MORE = {"--dry-run", "--calldata", "--sender"}
HASH = "0x" + "ab" * 32


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


async def send_by_cast(anvil: Anvil, transaction: dict[str, Any], sender: str) -> str:
    """Send a transaction as another wallet would, and return its status."""
    cast = cast_path()
    if cast is None:
        pytest.skip("NO CAST beside anvil or on the PATH")
    target = ["--create"] if transaction["to"] is None else [transaction["to"]]
    process = await asyncio.create_subprocess_exec(
        *(cast, "send", "--json", "--unlocked", "--from", sender, "--rpc-url", anvil.http),
        *("--value", transaction["value"], *target, transaction["data"]),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "HOME": str(anvil.home), "FOUNDRY_HOME": str(anvil.home)},
    )
    out, _ = await process.communicate()
    return str(json.loads(out)["status"])


def writing(one: str, two: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return an account and the arguments by command, for a registry with the node ``node-1``."""
    key = ("--public-key", str(key_of(9)))
    return {
        "contract deploy": (0, ("--owner", one)),
        "contract minter add": (0, (two,)),
        "contract minter remove": (0, (one,)),
        "contract policy-administrator add": (0, (two,)),
        "contract policy-administrator remove": (0, (one,)),
        "contract pause": (0, ()),
        "contract transfer-ownership": (0, (two,)),
        "contract accept-ownership": (1, ()),
        "invite cancel": (0, (HASH,)),
        "node register": (0, ("web-2", "--to", one, *key)),
        "node update-key": (1, ("node-1", *key)),
        "node set-endpoint": (1, ("node-1", "a.example:1")),
        "node set-expiry": (0, ("node-1", "2100-01-01")),
        "node tag": (0, ("node-1", "web")),
        "node routes": (0, ("node-1", "10.0.0.0/8")),
        "node transfer": (1, ("node-1", "--to", two)),
        "node revoke": (0, ("node-1",)),
        "tag define": (0, ("db", "gateway")),
    }


OTHERS = {
    "client add": "test_client_cli.py",
    "client join": "test_client_cli.py",
    "contract unpause": "needs a paused contract: below",
    "node join": "below",
    "node rotate-key": "below",
    "contract migrate": "test_migrate_cli.py",
    "node register-csv": "test_enrolment_cli.py",
    "policy remove": "test_policy_cli.py",
    "policy set": "test_policy_cli.py",
}


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def prepare(user: User) -> None:
    await user.register(1)
    one = user.anvil.accounts[1]
    await user.anvil.send(calls.define_tag("web"))
    await user.anvil.send(calls.add_minter(one))
    await user.anvil.send(calls.add_policy_administrator(one))
    await user.anvil.send(calls.transfer_contract_ownership(one))


def test_the_table_has_every_writing_command() -> None:
    flags = {path: {flag for p in command.params for flag in p.opts} for path, command in COMMANDS.items()}
    sends = {path for path, found in flags.items() if found & MORE}
    assert sends == {*writing("", ""), *OTHERS}
    assert all(flags[path] >= MORE | {"--timeout", "--json"} for path in sends)


async def test_a_dry_run_shows_gas_and_changes_nothing(user: User) -> None:
    await prepare(user)
    before = await user.nonces()
    block = await user.anvil.rpc("eth_blockNumber")
    for path, (by, arguments) in writing(*user.anvil.accounts[1:3]).items():
        found = (await user(*path.split(), *arguments, "--dry-run", "--json", by=by)).json
        assert found["from"] == user.anvil.accounts[by].lower(), path
        estimate = {name: found[name] for name in ("from", "data")} | (
            {} if found["to"] is None else {"to": found["to"]}
        )
        assert found["gas"] == int(await user.anvil.rpc("eth_estimateGas", estimate), 16), path
        assert found["max_fee_wei"] > 0
        keyless = await user(*path.split(), *arguments, "--dry-run", "--sender", user.anvil.accounts[by])
        assert f"gas          {found['gas']}\n" in keyless.out and "Nothing was sent." in keyless.err
    assert await user.nonces() == before
    assert await user.anvil.rpc("eth_blockNumber") == block


async def test_another_wallet_sends_the_calldata(user: User) -> None:
    """Each command's transaction takes effect, although no command had a key."""
    await prepare(user)
    for path, (by, arguments) in writing(*user.anvil.accounts[1:3]).items():
        if path in {"contract pause", "contract accept-ownership"}:
            continue  # these would prevent others, and are sent in the next test
        before = await user.nonces()
        # Without the account, a transaction is not simulated.
        given = () if path == "node revoke" else ("--sender", user.anvil.accounts[by])
        found = (await user(*path.split(), *arguments, "--calldata", *given, "--json")).json
        assert (found["chain_id"], found["value"]) == (31337, "0")
        assert found["to"] == (None if path == "contract deploy" else user.anvil.contract), path
        assert await user.nonces() == before
        assert await send_by_cast(user.anvil, found, user.anvil.accounts[by]) == "0x1", path
    name, _, _, active = await verifier(user.anvil, ACCESS, "2")
    assert (name, active) == ("web-2", "true")
    assert (await verifier(user.anvil, ACCESS, "1"))[3] == "false"
    assert (await user("tag", "list", "--json")).json["tags"][2]["name"] == "gateway"


async def test_a_pause_and_its_end_by_another_wallet(user: User) -> None:
    owner = user.anvil.accounts[0]
    assert (
        "ExpectedPause()"
        in (await user("contract", "unpause", "--calldata", "--sender", owner, code=1)).error
    )
    for command, paused in (("pause", "true"), ("unpause", "false")):
        found = (await user("contract", command, "--calldata", "--json")).json
        assert await send_by_cast(user.anvil, found, owner) == "0x1"
        assert await verifier(user.anvil, "paused()(bool)") == [paused]
    for command, by in (("minter add", 1), ("transfer-ownership", 1)):
        arguments = (*command.split(), user.anvil.accounts[by])
        found = (await user("contract", *arguments, "--calldata", "--json")).json
        assert await send_by_cast(user.anvil, found, owner) == "0x1"
    found = (await user("contract", "accept-ownership", "--calldata", "--json")).json
    assert await send_by_cast(user.anvil, found, user.anvil.accounts[1]) == "0x1"
    (new,) = await verifier(user.anvil, "owner()(address)")
    assert new.lower() == user.anvil.accounts[1].lower()


async def test_a_text_has_the_same_fields(user: User) -> None:
    ran = await user("contract", "pause", "--calldata")
    fields = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert fields == {"chain": "id     31337", "to": user.anvil.contract, "value": "0", "data": "0x8456cb59"}
    assert "Nothing was sent." in ran.err


async def test_a_refusal_is_found_by_a_dry_run(user: User) -> None:
    two = user.anvil.accounts[2]
    for flags in (("--dry-run",), ("--calldata",)):
        ran = await user("contract", "pause", *flags, "--sender", two, code=1)
        assert f"OwnableUnauthorizedAccount({two.lower()})" in ran.error
    await user.anvil.rpc("anvil_setBalance", two, "0x0")
    ran = await user("contract", "deploy", "--dry-run", "--sender", two, code=1)
    assert "has 0 ETH" in ran.error


async def test_options_that_conflict_are_refused(user: User) -> None:
    one = user.anvil.accounts[1]
    for flags, problem in (
        (("--dry-run", "--calldata"), "can't be given together"),
        (("--sender", one), "--sender is only for"),
        (("--calldata", "--sender", "0x12"), "expected 0x and 40"),
    ):
        assert problem in (await user("contract", "pause", *flags, by=0, code=2)).error
    ran = await user("contract", "deploy", "--calldata", code=1)
    assert "add its address with --sender" in ran.error
    missing = await user("contract", "pause", "--dry-run", code=78)
    assert "CONTRACT_PRIVATE_KEY" in missing.err


async def test_a_machine_joins_by_another_wallet(user: User, tmp_path: Path) -> None:
    code = (await user("invite", "create", "web-1", by=0)).out.strip()
    holder, file = user.anvil.accounts[2], tmp_path / "config.toml"
    settings: Any = {"STATE_DIR": str(tmp_path / "state"), "CONTRACT_ADDRESS": ""}
    join = ("node", "join", code, "--settings-file", str(file), "--sender", holder)
    await user(*join, "--dry-run", **settings)
    assert not file.exists() and not (tmp_path / "state").exists()
    found = (await user(*join, "--calldata", "--json", **settings)).json
    assert not file.exists()
    assert await send_by_cast(user.anvil, found, holder) == "0x1"
    joined = (await user(*join, "--calldata", "--json", **settings)).json
    assert (joined["token"], joined["transaction"]) == (1, None)
    assert 'node_id = "web-1"' in file.read_text()
    public = (await verifier(user.anvil, ACCESS, "1"))[1]
    assert (await user("node", "info", "web-1", "--json")).json["public_key"] == public


async def test_a_rotation_keeps_its_key_only_for_another_wallet(user: User, tmp_path: Path) -> None:
    code = (await user("invite", "create", "web-1", by=0)).out.strip()
    settings: Any = {"STATE_DIR": str(tmp_path), "WIREGUARD_PRIVATE_KEY": "generate"}
    await user("node", "join", code, "--settings-file", str(tmp_path / "c.toml"), by=1, **settings)
    rotate = ("node", "rotate-key", "web-1")
    files = files_in(tmp_path)
    await user(*rotate, "--dry-run", by=1, **settings)
    assert files_in(tmp_path) == files
    ran = await user(*rotate, "--calldata", "--json", **settings)
    (new,) = set(files_in(tmp_path)) - set(files)
    assert str(new) in ran.err
    assert await send_by_cast(user.anvil, ran.json, user.anvil.accounts[1]) == "0x1"
    public = derive(PrivateKey.parse(new.read_text().strip()))
    assert (await verifier(user.anvil, ACCESS, "1"))[1] == str(public)
