"""Staggered attempts, of which the first to succeed wins.

Each attempt starts a fixed time after the one before, or as soon as that one has failed. RFC 8305
(Happy Eyeballs) does this with addresses; the relay does it with upstreams.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dstack_vpn.errors import RelayError

_T = TypeVar("_T")


async def race(
    attempts: Sequence[Callable[[], Awaitable[_T]]], stagger: float, discard: Callable[[_T], None]
) -> tuple[int, _T]:
    """Run the attempts; return the index and the result of the first to succeed.

    The others are cancelled, and a result that arrives too late goes to ``discard``. ``stagger``
    is in seconds. An attempt fails by raising `RelayError`; if all fail, the last error is raised.
    """
    running: list[asyncio.Task[_T | RelayError]] = []
    won: asyncio.Task[_T | RelayError] | None = None
    try:
        async with asyncio.TaskGroup() as group:
            while won is None:
                unfinished = [task for task in running if not task.done()]
                if len(running) < len(attempts):
                    running.append(group.create_task(_outcome(attempts[len(running)])))
                    unfinished.append(running[-1])
                elif not unfinished:
                    break
                pause = stagger if len(running) < len(attempts) else None
                await asyncio.wait(unfinished, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                won = next((task for task in running if _succeeded(task)), None)
            for task in running:
                task.cancel()
    finally:
        for task in running:
            if task is not won and _succeeded(task):
                discard(task.result())  # type: ignore[arg-type]  # it succeeded
    if won is None:
        raise _failure(running)
    return running.index(won), won.result()  # type: ignore[return-value]  # it succeeded


async def _outcome(attempt: Callable[[], Awaitable[_T]]) -> _T | RelayError:
    try:
        return await attempt()
    except RelayError as error:
        return error


def _succeeded(task: "asyncio.Task[_T | RelayError]") -> bool:
    return (
        task.done()
        and not task.cancelled()
        and task.exception() is None
        and not isinstance(task.result(), RelayError)
    )


def _failure(tasks: "Sequence[asyncio.Task[_T | RelayError]]") -> RelayError:
    failures = [failure for task in tasks if isinstance(failure := task.result(), RelayError)]
    return failures[-1] if failures else RelayError("no upstream is configured")
