"""Programs that run to their end within a deadline."""

import asyncio
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_END: Final = 1.0
"""Seconds for a killed program to end; only a process that waits for a device takes longer."""


class Finished(NamedTuple):
    """The end of a program."""

    code: int
    """The exit code, or a negative signal number."""
    output: bytes
    errors: bytes


async def run(*command: str | Path, text: bytes = b"", deadline: float) -> Finished:
    """Run a program with ``text`` as its input, and return its output.

    Raises `OSError` if it can't be started, and `TimeoutError` after ``deadline`` seconds. The
    program is killed at the deadline and at a cancellation, and its end is awaited for `_END`: a
    later event loop could not collect its exit code.
    """
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(deadline):
            output, errors = await child.communicate(text)
            return Finished(await child.wait(), output, errors)
    finally:
        await end(child)


async def end(child: Process) -> None:
    """Kill a program unless it has ended, and wait up to `_END` for its end."""
    if child.returncode is None:
        kill(child)
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _END)


def kill(child: Process) -> None:
    """Kill a program unless it has ended.

    Its end may not have been noticed yet: this process was suspended, or the machine is busy.
    """
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()
