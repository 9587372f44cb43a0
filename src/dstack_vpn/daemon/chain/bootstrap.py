"""Reading of the whole registry: at the first start, and if no stored state is usable.

The held registry stays unchanged until all of it has been read.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, Literal, TypeVar

from dstack_vpn.core.chain.events import ContractRead
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.chain.registry import Registry, apply, registry_of
from dstack_vpn.core.model import END_OF_BLOCK, BlockRef, Position
from dstack_vpn.core.observe.events import RegistryRead
from dstack_vpn.daemon.chain.state import Began, ChainState
from dstack_vpn.errors import EndpointError, WrongChainError
from dstack_vpn.ports import ChainSession

RELOAD_ABOVE: Final = 20_000
"""Blocks: a longer gap is not fetched log by log if the contract can enumerate."""
SAFE_DEPTH: Final = 64
"""Blocks below the head that count as final on a chain without a finalized tag. If a contract can't
enumerate, a resync reads the logs of that many blocks again."""
RESYNC_DEADLINE: Final = 60.0
"""Seconds for an endpoint to return the whole registry."""

_T = TypeVar("_T")


async def in_time(name: str, reading: Awaitable[_T]) -> _T:
    """Read the whole registry within the deadline: the number of pages is unbounded.

    Raises `ChainError`.
    """
    try:
        async with asyncio.timeout(RESYNC_DEADLINE):
            return await reading
    except TimeoutError as error:
        raise EndpointError(f"{name} has not shown everything in {RESYNC_DEADLINE:.0f} s") from error


async def check_genesis(session: ChainSession) -> None:
    """Detect a chain that was wiped under a session: over HTTP, only its blocks show it.

    An endpoint that has pruned block 0 gives no indication. Raises `WrongChainError`.
    """
    genesis = await session.header(0)
    if genesis is not None and genesis.hash != session.identity.genesis_hash:
        raise WrongChainError(
            f"{session.name} serves another chain than a moment ago, or a wiped one. The last peers are kept"
        )


async def bootstrap(state: ChainState, session: ChainSession, head: BlockRef) -> None:
    """Read the registry from the state at ``head`` if the contract enumerates, else from logs."""
    began = state.clock.monotonic()
    follower = state.follower
    observed = await in_time(session.name, session.read_all(head))
    if observed is not None:
        nodes = [x.node for x in observed if x.node is not None]
        contract = await session.read_contract(head)
        base = Registry.of(nodes)
        if contract is not None:
            base, _ = apply(base, ContractRead(contract), Position(head.number, END_OF_BLOCK))
        follower.bootstrapped(base, head, reload_above=RELOAD_ABOVE)
    else:
        await _from_logs(follower, session, head)
    state.read(head)
    state.members.rebuild(began)
    state.connected(session.name)
    source: Literal["state", "logs"] = "logs" if observed is None else "state"
    seconds = round(state.clock.monotonic() - began, 3)
    state.publish(RegistryRead(len(follower.registry.nodes), head.number, source, seconds))
    await state.changed.put(Began())


async def final_block(session: ChainSession, head: BlockRef) -> BlockRef | None:
    """Return the newest final block up to ``head``, or None if there is none yet."""
    final = await session.finalized()
    if final is None and head.number > SAFE_DEPTH:
        final = await session.header(head.number - SAFE_DEPTH)
    return final if final is not None and final.number <= head.number else None


async def _from_logs(follower: Follower, session: ChainSession, head: BlockRef) -> None:
    final = await final_block(session, head) or head
    events = await session.events(await session.first_block(), head.number)
    again = await session.header(head.number)
    if again is None or again.hash != head.hash:
        raise EndpointError(f"{session.name}: a reorg overtook the first reading")
    base = registry_of(each for each in events if each.block_number <= final.number)
    tokens = sorted(registry_of(events).nodes)
    observed = await session.read_tokens(tokens, head) if tokens else []
    # Nothing can fail from here on: peers are derived from the registry as soon as it is known.
    follower.restore(base, final, events, head)
    follower.state_read(head, observed)
