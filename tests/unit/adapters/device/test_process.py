import asyncio
import os
import signal
from pathlib import Path

import pytest

from dstack_vpn.adapters.device import process
from dstack_vpn.errors import DeviceError


@pytest.mark.parametrize("name", ["", "a" * 16, "../x", ".", "..", "wg0\n", "wg 0", "wg0;reboot"])
def test_what_is_no_interface_name_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="not an interface name"):
        process.socket_path(name)


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(DeviceError, match="apt install wireguard-go"):
        process.find_program("no-such-wireguard-go")


@pytest.mark.parametrize(
    ("version", "outdated"),
    [("0.0.20220316", True), ("0.0.20230223", False), ("0.0.20250522", False), (None, False), ("1", False)],
)
def test_the_version_that_stalls_is_known(version: str | None, *, outdated: bool) -> None:
    assert process.is_outdated(version) is outdated


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


async def test_the_version_is_what_the_program_says(tmp_path: Path) -> None:
    program = script(tmp_path / "wireguard-go", 'echo "wireguard-go v0.0.20220316"; echo; echo more')
    assert await process.program_version(program) == "0.0.20220316"
    assert await process.program_version(script(tmp_path / "other", "exit 1")) is None
    (tmp_path / "text").write_text("not a program")
    with pytest.raises(DeviceError, match=r"can't start .*/text: Permission denied"):
        await process.program_version(tmp_path / "text")


def test_offloads_are_seen_in_the_binary(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"\0tun.(*virtioNetHdr).decode\0")
    (tmp_path / "old").write_bytes(b"\0" * 64)
    assert process.has_offloads(tmp_path / "new")
    assert not process.has_offloads(tmp_path / "old")


def test_the_control_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "made" / "wg0.sock"
    process.bind_socket(path).close()
    with process.bind_socket(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_path_that_can_not_be_bound_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="can't listen at"):
        process.bind_socket(tmp_path / "file" / "wg0.sock")


async def test_a_child_gets_two_descriptors_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = script(tmp_path / "wireguard-go", f'{{ env; echo "$@"; ls /proc/$$/fd; echo x >&3; }} > {out}')
    received, sent = os.pipe()
    with process.bind_socket(tmp_path / "wg0.sock") as listener:
        child = process.spawn(program, "wg0", sent, listener)
    async with asyncio.timeout(10):
        await child.dead.wait()
    os.close(sent)
    assert os.read(received, 9) == b"x\n"
    os.close(received)
    lines = out.read_text().splitlines()
    assert {"WG_TUN_FD=3", "WG_UAPI_FD=4", "LOG_LEVEL=error", "-f wg0"} <= set(lines)
    assert not [line for line in lines if line.startswith(("PATH=/root", "HOME="))]
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)  # noqa: ASYNC222  # WNOHANG does not block


async def test_a_child_has_a_session_of_its_own_and_can_be_ended(tmp_path: Path) -> None:
    with process.bind_socket(tmp_path / "wg0.sock") as listener:
        child = process.spawn(script(tmp_path / "sleeper", "exec sleep 60"), "wg0", 0, listener)
    assert os.getsid(child.pid) == child.pid
    child.terminate()
    async with asyncio.timeout(10):
        await child.dead.wait()
    child.terminate()


async def test_a_child_that_was_let_go_runs_on(tmp_path: Path) -> None:
    with process.bind_socket(tmp_path / "wg0.sock") as listener:
        child = process.spawn(script(tmp_path / "sleeper", "exec sleep 60"), "wg0", 0, listener)
    child.release()
    assert not child.dead.is_set()
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)  # noqa: ASYNC222  # the child was killed


async def test_a_program_that_can_not_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no-program").touch()
    with (
        process.bind_socket(tmp_path / "wg0.sock") as listener,
        pytest.raises(DeviceError, match="can't start"),
    ):
        process.spawn(tmp_path / "no-program", "wg0", 0, listener)
