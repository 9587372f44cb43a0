"""The process that rotates our key: its input, its error messages and its termination."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from dstack_vpn.adapters.keys.changer import COMMAND, CommandKeyChanger
from dstack_vpn.config import child, load
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.errors import AdminError

SECRET = "5f" * 31 + "a7"
HEARD = """
import json, os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(json.dumps({
    "argv": sys.argv[2:], "env": dict(os.environ), "config": pathlib.Path("/dev/stdin").read_text()
}))
"""
HANGS = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return sys.executable, "-c", code, *arguments


def changer(*command: str, settings: str = "", deadline: float = 30.0) -> CommandKeyChanger:
    return CommandKeyChanger(settings, {}, secrets=[SECRET, "api-key-7"], command=command, deadline=deadline)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def problem(*command: str, deadline: float = 30.0) -> str:
    with pytest.raises(AdminError) as caught:
        await changer(*command, deadline=deadline).change(7)
    return str(caught.value)


async def test_no_secret_is_in_its_arguments_or_environment(tmp_path: Path) -> None:
    text = f'contract_private_key = "{SECRET}"\n'
    command = python(HEARD, str(tmp_path / "heard"))
    await CommandKeyChanger(text, {"PATH": "/bin"}, command=command).change(7)
    heard = json.loads((tmp_path / "heard").read_text())
    assert heard["argv"] == ["token:7", "--config", "/dev/stdin", "--timeout", "120"]
    assert heard["env"].pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python sets it
    assert heard["env"] == {"PATH": "/bin"}
    assert heard["config"] == text


async def test_the_last_error_is_told_without_secrets_and_without_escapes() -> None:
    code = f"""
import sys
print("error: an earlier one", file=sys.stderr)
print("error: 0x{SECRET.upper()} at ws://x/api-key-7 \\x1b[2J\\u202e has no funds", file=sys.stderr)
print("The old key stays in use", file=sys.stderr)
sys.exit(1)
"""
    assert await problem(*python(code)) == "0x*** at ws://x/*** \\x1b[2J\\x202e has no funds"


async def test_what_is_no_error_of_ours_is_told_by_its_end() -> None:
    said = await problem(*python("import sys; print('x' * 5000 + ' the end', file=sys.stderr); sys.exit(78)"))
    assert said.endswith("xxx the end")
    assert len(said) == 300
    assert (
        await problem(*python("raise SystemExit(3)"))
        == "'node rotate-key' ended with code 3 and without output"
    )


async def test_a_flood_is_read_and_dropped() -> None:
    code = "import sys\nfor _ in range(2000): sys.stderr.write('y' * 4096)\nsys.exit('\\nerror: done')"
    assert await problem(*python(code)) == "done"


async def test_what_hangs_is_killed(tmp_path: Path) -> None:
    said = await problem(*python(HANGS, str(tmp_path / "pid")), deadline=2.0)
    assert "did not finish within 2 s" in said
    assert not alive(int((tmp_path / "pid").read_text())), "dead and reaped"


async def test_what_is_not_wanted_any_more_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(changer(*python(HANGS, str(path))).change(7))
        ends = time.monotonic() + 20
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < ends
            await asyncio.sleep(0.01)
        task.cancel()
    assert task.cancelled()
    assert not alive(int(path.read_text()))


async def test_what_was_killed_and_what_is_missing_are_named() -> None:
    assert (
        await problem(*python("import os; os.kill(os.getpid(), 9)"))
        == "'node rotate-key' was ended by signal 9"
    )
    assert await problem("/no/such/program") == "can't start 'node rotate-key': No such file or directory"


async def test_settings_that_fit_into_no_pipe_are_refused() -> None:
    with pytest.raises(AdminError, match="too long"):
        await changer(*python("pass"), settings="x" * 10_000_000).change(7)


async def test_nothing_stays_open() -> None:
    before = descriptors()
    for _ in range(3):
        await changer(*python("pass")).change(7)
        await problem("/no/such/program")
    assert descriptors() == before


async def test_the_real_command_takes_its_settings_from_there(tmp_path: Path) -> None:
    """The command fails at the endpoint, which is unreachable."""
    key = tmp_path / "wireguard.key"
    key.touch(0o600)
    key.write_text("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n")
    settings = load(
        {},
        {
            "NETWORK": "local",
            "RPC_URL": "http://127.0.0.1:9/api-key-7",
            "STATE_DIR": str(tmp_path),
            "WIREGUARD_PRIVATE_KEY": "generate",
            "CONTRACT_PRIVATE_KEY": SECRET,
        },
    )
    assert isinstance(settings.wireguard_private_key, PrivateKey)
    with pytest.raises(AdminError, match=r"127\.0\.0\.1:9") as caught:
        await CommandKeyChanger(
            child.document(settings), child.environment(), secrets=[SECRET, "api-key-7"], command=COMMAND
        ).change(7)
    assert "api-key-7" not in str(caught.value)
    assert not (tmp_path / "wireguard.key.next").exists(), "nothing was made for an endpoint that is away"
