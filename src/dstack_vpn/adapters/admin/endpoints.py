"""One piece of work on the first endpoint that can do it.

A command is over in seconds, so it has no use for the daemon's pool with its growing pauses: each endpoint
is tried once, in the order of preference, and the final error gives the reason of each failure.
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
    """Return the result of ``work`` on the first endpoint on which it ends without a `ChainError`.

    A revert is the contract's answer, which no other endpoint would change: it is raised at once. So is any
    other error, in particular `AdminError`: work that must not be done twice raises that. Where all endpoints
    fail, raises the only one's error, or an `EndpointError` that lists all of them.
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
    told = "; ".join(f"{name}: {error}" for name, error in problems)
    if len(problems) == 1:
        return type(problems[0][1])(told)
    return EndpointError(f"no endpoint could do it: {told}")
