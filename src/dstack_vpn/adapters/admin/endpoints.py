"""Execution of one piece of work on the first endpoint that can do it.

A command takes seconds, so the daemon's pool with its growing pauses is not used. Each endpoint is
tried once in order of preference, and the final error contains the reason of each failure.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.session import open_transport
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError

_T = TypeVar("_T")

Work: TypeAlias = Callable[[Caller], Awaitable[_T]]


async def on_first(urls: Sequence[RpcUrl], work: Work[_T]) -> _T:
    """Return the result of ``work`` on the first endpoint without a `ChainError`.

    A revert is the contract's reply, which no other endpoint would change, and is raised
    immediately. So is any other error, in particular `AdminError`: work that must not be done twice
    raises it. If all endpoints fail, raises the error of the only one, or an `EndpointError` that
    lists all.
    """
    problems: list[tuple[str, ChainError]] = []
    for url in urls:
        try:
            async with open_transport(url) as transport:
                return await work(Caller(transport))
        except CallRevertedError:
            raise
        except ChainError as error:
            problems.append((url.name, error))
    raise _summary(problems)


def _summary(problems: Sequence[tuple[str, ChainError]]) -> ChainError:
    reasons = "; ".join(f"{name}: {error}" for name, error in problems)
    if len(problems) == 1:
        return type(problems[0][1])(reasons)
    return EndpointError(f"all endpoints failed: {reasons}")
