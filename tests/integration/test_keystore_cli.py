"""Accounts in keystore files, which cast and eth-account have written."""

import asyncio
import json
import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from eth_account import Account
from tests.anvil import Anvil
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import KEYS, User, cast_path, verifier

pytestmark = pytest.mark.anvil
PASSWORD = "correct horse battery staple"


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


def write(path: Path, content: str, mode: int = 0o600) -> str:
    path.touch(mode)
    path.chmod(mode)
    path.write_text(content)
    return str(path)


@pytest.fixture
def keystore(tmp_path: Path) -> str:
    """Return the path of a keystore of account 0, of eth-account."""
    document = Account.encrypt(bytes.fromhex(KEYS[0][2:]), PASSWORD, kdf="pbkdf2", iterations=10)
    return write(tmp_path / "owner.json", json.dumps(document))


async def paused(user: User) -> bool:
    return await verifier(user.anvil, "paused()(bool)") == ["true"]


async def test_a_keystore_of_cast_signs(user: User, tmp_path: Path) -> None:
    cast = cast_path()
    if cast is None:
        pytest.skip("NO CAST beside anvil or on the PATH")
    process = await asyncio.create_subprocess_exec(
        *(cast, "wallet", "import", "owner", "--private-key", KEYS[0], "--unsafe-password", PASSWORD),
        *("--keystore-dir", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "HOME": str(tmp_path), "FOUNDRY_HOME": str(tmp_path)},
    )
    await process.communicate()
    file = tmp_path / "owner"
    file.chmod(0o600)
    password = write(tmp_path / "password", PASSWORD + "\n")
    ran = await user("contract", "pause", "--keystore", str(file), "--password-file", password, "--json")
    assert await paused(user)
    receipt = await user.anvil.rpc("eth_getTransactionReceipt", ran.json["transaction"])
    assert receipt["from"] == user.anvil.accounts[0].lower()


async def test_the_password_is_from_a_file_or_the_environment(
    user: User, keystore: str, tmp_path: Path
) -> None:
    password = write(tmp_path / "password", PASSWORD)
    await user("contract", "pause", "--keystore", keystore, CONTRACT_KEYSTORE_PASSWORD=PASSWORD)
    await user("contract", "unpause", "--keystore", keystore, CONTRACT_KEYSTORE_PASSWORD_FILE=password)
    # A flag takes precedence over the environment, also over the account's raw key.
    await user(
        *("contract", "pause", "--keystore", keystore, "--password-file", password),
        by=2,
        CONTRACT_KEYSTORE_PASSWORD="wrong",
    )
    assert await paused(user)
    dry = await user(
        *("contract", "unpause", "--dry-run", "--json", "--keystore", keystore),
        CONTRACT_KEYSTORE_PASSWORD=PASSWORD,
    )
    assert dry.json["from"] == user.anvil.accounts[0].lower()
    assert await paused(user)


async def test_a_keystore_signs_an_invitation(user: User, keystore: str) -> None:
    ran = await user(
        *("invite", "create", "web-1", "--json", "--keystore", keystore), CONTRACT_KEYSTORE_PASSWORD=PASSWORD
    )
    assert ran.json["minter"] == user.anvil.accounts[0].lower()


async def test_a_terminal_asks_for_the_password_and_hides_it(user: User, keystore: str) -> None:
    code, shown = await with_prompt(user, PASSWORD, "contract", "pause", "--keystore", keystore)
    assert code == 0, shown
    assert PASSWORD not in shown and await paused(user)
    code, shown = await with_prompt(user, "wrong", "contract", "unpause", "--keystore", keystore)
    assert code == 78 and "the password is wrong" in shown
    assert await paused(user)


async def with_prompt(user: User, password: str, *arguments: str) -> tuple[int, str]:
    """Run a command in a terminal, and type the password after the prompt, which discards input."""
    ours, theirs = pty.openpty()
    environment = {**user.environment(None, {}), "TERM": "xterm", "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dstack_vpn", *arguments),
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),  # type: ignore[arg-type]  # the values are not strings
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},  # the code of this process
    )
    os.close(theirs)
    try:
        shown = await asyncio.to_thread(converse, ours, password)
        return await asyncio.wait_for(process.wait(), 10), shown.decode(errors="replace")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


def converse(descriptor: int, password: str) -> bytes:
    """Return the output until its end, for at most 60 s."""
    shown, typed, ends = b"", False, time.monotonic() + 60
    with suppress(OSError):  # EIO after the other side has closed
        while select.select([descriptor], [], [], ends - time.monotonic())[0]:
            shown += os.read(descriptor, 65536)
            if not typed and b"Password of the keystore" in shown:
                os.write(descriptor, password.encode() + b"\n")
                typed = True
    return shown


async def test_unusable_files_are_refused_and_nothing_is_sent(
    user: User, keystore: str, tmp_path: Path
) -> None:
    before = await user.nonces()
    content = Path(keystore).read_text()  # noqa: ASYNC240 - a small file
    readable = write(tmp_path / "readable.json", content, 0o644)
    password, open_password = (
        write(tmp_path / "password", PASSWORD),
        write(tmp_path / "open", PASSWORD, 0o640),
    )
    for problem, *arguments in (
        (f"--keystore: {readable} can be read by others", "--keystore", readable),
        ("--password-file: ", "--keystore", keystore, "--password-file", open_password),
        ("No such file", "--keystore", str(tmp_path / "missing"), "--password-file", password),
        ("no terminal for a prompt", "--keystore", keystore),
        ("expected Web3 secret storage", "--keystore", password, "--password-file", password),
        ("the password is wrong", "--keystore", keystore, "--password-file", keystore),
    ):
        ran = await user("contract", "pause", *arguments, code=78)
        assert problem in ran.err and PASSWORD not in ran.out + ran.err, arguments
    for problem, *arguments in (
        ("only for --keystore", "--password-file", password),
        ("without --calldata and --sender", "--keystore", keystore, "--calldata"),
    ):
        assert problem in (await user("contract", "pause", *arguments, by=0, code=2)).error
    assert await user.nonces() == before
