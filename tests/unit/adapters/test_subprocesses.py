"""Programs that end, hang, can't be started, or end at the deadline."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.daemon.conftest import eventually

from dstack_vpn.adapters.subprocesses import Finished, kill, run


async def test_a_program_gets_its_input_and_returns_its_output() -> None:
    script = "import sys; print(sys.stdin.read().upper()); print('no', file=sys.stderr); sys.exit(3)"
    ran = await run(sys.executable, "-c", script, text=b"yes", deadline=30.0)
    assert ran == Finished(3, b"YES\n", b"no\n")


HANGS = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()} '); time.sleep(600)"


async def started(file: Path) -> int:
    """Return the process id that the program has written."""
    await eventually(lambda: file.exists() and file.read_text().endswith(" "))
    return int(file.read_text())  # noqa: ASYNC240  # a small file


def gone(pid: int) -> bool:
    """Return whether a child has ended and its exit code was collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_program_is_killed_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await run(sys.executable, "-c", HANGS, tmp_path / "pid", deadline=2.0)
    assert gone(await started(tmp_path / "pid"))


async def test_a_program_is_killed_at_a_cancellation(tmp_path: Path) -> None:
    task = asyncio.get_running_loop().create_task(
        run(sys.executable, "-c", HANGS, tmp_path / "pid", deadline=600.0)
    )
    pid = await started(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)


async def test_a_program_that_ends_at_the_deadline_has_finished_or_is_late() -> None:
    for step in range(80):
        with suppress(TimeoutError):
            assert (await run("true", deadline=step * 1e-4)).code == 0


async def test_a_program_that_has_ended_is_not_killed() -> None:
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    with pytest.raises(ProcessLookupError):
        child.kill()
    kill(child)


async def test_a_program_that_is_missing_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await run(tmp_path / "missing", deadline=1.0)
