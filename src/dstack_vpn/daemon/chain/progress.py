"""Supervision of the followed endpoint's progress."""

import asyncio
from collections.abc import Callable
from typing import Final

from dstack_vpn.core.chain.lag import BOUND
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.errors import BehindError

LOOK: Final = 1.0
"""Seconds between two measurements of the lag."""


async def keep_up(state: ChainState, endpoint: str, have_others: Callable[[], bool]) -> None:
    """Raise `BehindError` if the tip stays too far behind the endpoints' heads.

    A sole endpoint's session ends only if it makes no progress at all: a new session may be better.
    """
    began = state.clock.monotonic()
    tip, moved = state.follower.tip, began
    while True:
        await asyncio.sleep(LOOK)
        now = state.clock.monotonic()
        if state.follower.tip != tip:
            tip, moved = state.follower.tip, now
        seconds, blocks = state.measure_lag()
        since = began if have_others() else moved
        if seconds > BOUND and now - since > BOUND:
            state.lag.void(endpoint)
            raise BehindError(f"{endpoint}: following it, we are {blocks} blocks and {seconds:.0f} s behind")
