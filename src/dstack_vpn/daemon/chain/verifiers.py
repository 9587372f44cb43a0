"""Verifiers: the endpoints other than the followed one, each queried over a connection of its own.

A query is small and concurrent: the endpoint's head, and some tokens after our block. An endpoint
that has not reached that block has `PATIENCE` to do so. An endpoint that is ahead is queried for
the tokens at its head, too: the followed endpoint could stay at an old block, before a member was
revoked.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from dstack_vpn.core.access.replies import Question, Reply
from dstack_vpn.core.chain.agreement import Agreement, Revision
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import TokenState, token_of
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainSession, ChainSource

PATIENCE: Final = 3.0
"""Seconds for an endpoint to connect, and to reach our block."""
LOOK: Final = 0.05
"""Seconds between two checks of that."""


@dataclass(slots=True)
class EndpointVerifier:
    """An endpoint with a connection that is kept open: implements `ports.Verifier`."""

    name: str
    source: ChainSource
    problem: str | None = None
    """The reason that it cannot be queried now, or None."""
    _session: ChainSession | None = None
    _connected: asyncio.Event = field(default_factory=asyncio.Event)
    _broken: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Keep a connection until cancelled.

        Absorbs `ChainError`: the source waits before the next connection.
        """
        while True:
            try:
                async with self.source.to(self.name) as self._session:
                    self._broken.clear()
                    self._connected.set()
                    await self._broken.wait()
                    raise EndpointError(self.problem or "the connection was lost")
            except ChainError as error:
                self.problem = str(error)
            finally:
                self._connected.clear()
                self._session = None

    async def query(self, question: Question) -> Reply:
        """See `ports.Verifier.query`. An endpoint that lags or is not connected has `PATIENCE`."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._connected.wait()
        except TimeoutError as error:
            raise EndpointError(self.problem or "it is not connected") from error
        assert self._session is not None
        try:
            reply = await answer(self._session, question)
        except ChainError as error:
            self.problem = str(error)
            self._broken.set()
            raise
        self.problem = None
        return reply


@dataclass(slots=True)
class Verifiers:
    """The verifiers of all endpoints except the followed one."""

    source: ChainSource
    _group: asyncio.TaskGroup | None = field(default=None, init=False)
    """The group that runs the connections."""
    _called: dict[str, EndpointVerifier] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run the connections in this group from now on."""
        self._group = group

    def __iter__(self) -> Iterator[EndpointVerifier]:
        return iter(list(self._called.values()))

    def call(self, *, besides: str) -> None:
        """Connect to exactly the endpoints that are neither ``besides`` nor quarantined."""
        assert self._group is not None
        wanted = self.source.others(than=besides)
        for name in self._called.keys() - set(wanted):
            self.dismiss(name)
        for name in wanted:
            if name not in self._called:
                verifier = self._called[name] = EndpointVerifier(name, self.source)
                self._running[name] = self._group.create_task(verifier.run(), name=f"verifier {name}")

    def dismiss(self, name: str) -> None:
        """Close the connection to this endpoint, if it has one."""
        if self._called.pop(name, None) is not None:
            self._running.pop(name).cancel()


async def answer(session: ChainSession, question: Question) -> Reply:
    """Query an endpoint over its session; raises `ChainError`."""
    return await (_read_whole(session, question) if question.whole else _read_some(session, question))


async def _read_some(session: ChainSession, question: Question) -> Reply:
    """Read some tokens after our block, and after the endpoint's head if that differs."""
    at, waited = question.at, 0.0
    while True:
        head, observed = await asyncio.gather(session.head(), _read(session, question.tokens, at))
        if head.hash == at.hash and not isinstance(observed, ChainError):
            contract = await _contract(session, question, at)
            return Reply(session.name, at.hash, at, observed, head=head.number, contract=contract)
        if head.number > at.number:
            return await _read_newer(session, question, head, observed)
        if waited >= PATIENCE:
            return Reply(session.name, head.hash if head.number == at.number else None, at)
        await asyncio.sleep(LOOK)
        waited += LOOK


async def _read_newer(
    session: ChainSession, question: Question, head: BlockRef, observed: list[TokenState] | ChainError
) -> Reply:
    """Read the tokens of an endpoint whose head is newer than our block."""
    at = question.at
    header, later = await asyncio.gather(
        session.header(at.number), session.read_tokens(question.tokens, head)
    )
    if header is None or header.hash != at.hash or isinstance(observed, ChainError):
        hash_ = None if header is None else header.hash
        return Reply(session.name, hash_, head, later, head=head.number)
    contract = await _contract(session, question, at)
    return Reply(session.name, at.hash, at, observed, later, head.number, contract=contract)


async def _read_whole(session: ChainSession, question: Question) -> Reply:
    """Read all tokens at the endpoint's head or at ours, and check that it has our blocks.

    The revision replaces the tokens if it is that of the endpoint's last full reading. Usually one
    call shows that, and our blocks.
    """
    if (reply := await _unchanged(session, question)) is not None:
        return reply
    at, earlier = question.at, question.earlier
    head = await session.head()
    header = at if head.hash == at.hash else await session.header(at.number)
    was = None if earlier is None else await session.header(earlier[0])
    has_earlier = None if earlier is None or was is None else was.hash == earlier[1]
    place = at if question.exact and header is not None and header.hash == at.hash else head
    hash_, revision = None if header is None else header.hash, await session.revision(place)
    if (again := await _again(session, question.agreed, place, revision)) is not None:
        return Reply(
            *(session.name, hash_, place, again.states(), (), head.number, has_earlier),
            *(again.contract, revision, again.repeats),
        )
    observed = await session.read_all(place)
    if observed is None:
        observed = await _known(session, question, place)
    else:
        gone = set(question.tokens) - {x.token_id for x in observed}
        observed += [TokenState(token, None) for token in gone]
    contract = await _contract(session, question, place)
    return Reply(session.name, hash_, place, observed, (), head.number, has_earlier, contract, revision)


async def _unchanged(session: ChainSession, question: Question) -> Reply | None:
    """Return the reply of an endpoint with our blocks and the revision of its last full reading.

    Returns None if one call does not show all of that.
    """
    at, agreed, known = question.at, question.agreed, [question.at]
    if agreed is None or agreed.is_root:
        return None
    if agreed.at.hash != at.hash:
        known.append(agreed.at)
    if question.earlier is not None:
        known.append(BlockRef(*question.earlier, "", 0))
    found = await session.extension(*known)
    again = None if found is None else agreed.repeated(at, found.revision)
    if found is None or again is None:
        return None
    has_earlier = None if question.earlier is None else True
    return Reply(
        *(session.name, at.hash, at, again.states(), (), found.latest, has_earlier),
        *(again.contract, found.revision, again.repeats),
    )


async def _again(
    session: ChainSession, agreed: Agreement | None, at: BlockRef, revision: Revision | None
) -> Agreement | None:
    """Return the endpoint's last full reading, if it has the same revision.

    If the revision is a number, the endpoint confirms that the block is on its chain: the followed
    endpoint must not choose it.
    """
    again = None if agreed is None else agreed.repeated(at, revision)
    if agreed is None or again is None or agreed.is_root or agreed.at.hash == at.hash:
        return again
    header = await session.header(agreed.at.number)
    return again if header is not None and header.hash == agreed.at.hash else None


async def _known(session: ChainSession, question: Question, at: BlockRef) -> list[TokenState]:
    """Read the tokens that we know and those that the endpoint's latest logs name."""
    tokens = set(question.tokens)
    for logged in await session.events(question.logs_from, at.number):
        if (token := token_of(logged.event)) is not None:
            tokens.add(token)
    return await session.read_tokens(sorted(tokens), at)


async def _contract(session: ChainSession, question: Question, at: BlockRef) -> ContractState | None:
    """Read the state of the contract itself, with the text of its policy if that is not ours."""
    state = await session.read_contract(at) if question.whole or question.contract else None
    if state is None or state.policy is None or state.policy.hash == question.policy:
        return state
    return replace(state, policy=(await session.read_policy(at)).policy)


async def _read(
    session: ChainSession, tokens: Sequence[TokenId], at: BlockRef
) -> list[TokenState] | ChainError:
    """Return the tokens after a block, or the error of an endpoint that has no state of it."""
    with suppress(ChainError):
        return await session.read_tokens(tokens, at)
    return EndpointError("it has no state of that block")
