"""Reads of the registry's state at one block, pinned by its hash (EIP-1898), in few calls.

Pinning makes the reads consistent: pages that are fetched in parallel, or from different backends
of a load balancer, are of the same block or fail. A page or chunk that the endpoint finds too large
is halved.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.faults import UnsupportedError
from dstack_vpn.adapters.chain.fields import data, storage_root
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.adapters.chain.memory import EndpointCapabilities
from dstack_vpn.adapters.chain.multicall import MULTICALL3, decode_aggregate3, encode_aggregate3
from dstack_vpn.core.chain.agreement import Revision
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import PolicyRead, TokenState
from dstack_vpn.core.model import Address, BlockRef, TokenId
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, FormatError, RangeError
from dstack_vpn.ports import RegistryAbi

_PAGES_IN_FLIGHT: Final = 3
_TOKENS_TOGETHER: Final = 340
_DEADLINE: Final = 30.0
_PROOF_DEADLINE: Final = 10.0
_REFUSED: Final = 3600.0
"""Seconds without a request for a proof, after the endpoint has refused the method."""
_FAILED: Final = 300.0
"""Seconds without a request for a proof, after it failed for another reason."""
_NO_STORAGE: Final = frozenset(
    {"0x" + "0" * 64, "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"}
)
"""No hash, and the root hash of an empty storage (Yellow Paper, 4.1): a registry has a storage."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StateReader:
    """Reads one contract through one endpoint."""

    caller: Caller
    abi: RegistryAbi
    contract: Address
    memory: EndpointCapabilities
    monotonic: Callable[[], float]

    async def tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        """Return the states of the given tokens after a block. Raises `ChainError`."""
        observed: list[TokenState] = []
        for start in range(0, len(tokens), _TOKENS_TOGETHER):
            chunk = tokens[start : start + _TOKENS_TOGETHER]
            observed += await _halving(lambda part: self._chunk(part, at), chunk)
        return observed

    async def all(self, at: BlockRef) -> list[TokenState] | None:
        """Return the states of all tokens after a block, or None if the contract can't enumerate.

        Raises `ChainError`.
        """
        if not self.abi.page_size:
            return None
        size = min(self.abi.page_size, self.memory.page_size or self.abi.page_size)
        tokens, total = await self._page(0, size, at)
        # A contract or an endpoint may return fewer tokens than requested. Later pages use this
        # size.
        size = len(tokens) or total
        offsets = range(len(tokens), total, size) if tokens else ()
        rest = await _together([partial(self._page, offset, size, at) for offset in offsets])
        for page, count in rest:
            tokens += page
            if count != total:
                raise EndpointError("the endpoint's pages disagree on the number of tokens")
        if len({token.token_id for token in tokens}) != total or len(tokens) != total:
            raise EndpointError(f"the endpoint returned {len(tokens)} of {total} tokens")
        return tokens

    async def revision(self, at: BlockRef) -> Revision | None:
        """Return the number of changes up to a block, or the root hash of the contract's storage.

        Returns None if the contract or the endpoint does not return it. Raises `ChainError`.
        """
        if (call := self.abi.revision_call) is None:
            return await self._storage_root(at)
        try:
            reply = await self._call(call, at)
        except CallRevertedError:
            return None  # without a number, everything is read
        try:
            return self.abi.parse_revision(reply)
        except FormatError as error:
            raise EndpointError(f"the endpoint returned an invalid revision: {error}") from error

    async def _storage_root(self, at: BlockRef) -> str | None:
        """Return the root hash of the contract's storage after a block (EIP-1186).

        Returns None after any error, because all tokens can be read without it. An endpoint that is
        unusable fails that reading as well. Raises the error of a connection that is lost.
        """
        if self.monotonic() < self.memory.proof_after:
            return None
        try:
            where: list[Json] = [self.contract, [], {"blockHash": at.hash}]
            proof = await self.caller.call("eth_getProof", *where, deadline=_PROOF_DEADLINE, lag=LAG)
            if (root := storage_root(proof)) in _NO_STORAGE:
                raise UnsupportedError("the endpoint's proof shows a contract without storage")
        except ChainError as error:
            # Some endpoints close the connection, or never reply. The next session must not ask.
            pause = _REFUSED if isinstance(error, UnsupportedError) else _FAILED
            self.memory.proof_after = self.monotonic() + pause
            if self.caller.transport.failure is not None:
                raise
            return None
        return root

    async def contract_state(self, at: BlockRef) -> ContractState | None:
        """Return the contract's own state after a block, or None if it has none.

        Raises `ChainError`.
        """
        if not (calls := self.abi.contract_calls()):
            return None
        replies = await self._calls(calls, at, together=True)
        try:
            return self.abi.parse_contract(replies)
        except FormatError as error:
            raise EndpointError(f"the endpoint returned an invalid state of the contract: {error}") from error

    async def policy(self, at: BlockRef) -> PolicyRead:
        """Return the policy with its text after a block. Raises `ChainError`."""
        if not (calls := self.abi.policy_calls()):
            return PolicyRead(None)
        replies = await self._each(calls, at)
        try:
            # Hashing a long text takes 0.2 s, so a thread does it and no event waits.
            return await asyncio.to_thread(self.abi.parse_policy, replies)
        except FormatError as error:
            raise EndpointError(f"the endpoint returned an invalid policy: {error}") from error

    async def _page(self, offset: int, limit: int, at: BlockRef) -> tuple[list[TokenState], int]:
        """Return a page of tokens and the total. A page that is too large is split."""
        try:
            reply = await self._read(self.abi.page_call(offset, limit), at)
            # Parsing hundreds of tokens takes 10 ms, so a thread does it and no event waits.
            return await asyncio.to_thread(self._parse_page, reply, at)
        except RangeError:
            if limit == 1:
                raise EndpointError("the endpoint can't serve a page of one token") from None
        half = (limit + 1) // 2
        self.memory.page_size = min(half, self.memory.page_size or half)
        first, total = await self._page(offset, half, at)
        if offset + half >= total:
            return first, total
        second, _ = await self._page(offset + half, limit - half, at)
        return first + second, total

    def _parse_page(self, reply: bytes, at: BlockRef) -> tuple[list[TokenState], int]:
        try:
            return self.abi.parse_page(reply, at)
        except FormatError as error:
            raise EndpointError(f"the endpoint returned an invalid page of tokens: {error}") from error

    async def _chunk(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        calls = [call for token in tokens for call in self.abi.token_calls(token)]
        replies = await self._calls(calls, at, together=len(tokens) > 1)
        observed, position = [], 0
        for token in tokens:
            count = len(self.abi.token_calls(token))
            observed.append(self._parse_token(token, replies[position : position + count], at))
            position += count
        return observed

    def _parse_token(self, token: TokenId, replies: Sequence[bytes | None], at: BlockRef) -> TokenState:
        try:
            return self.abi.parse_token(token, replies, at)
        except FormatError as error:
            raise EndpointError(
                f"the endpoint returned an invalid state of token {token}: {error}"
            ) from error

    async def _calls(self, calls: Sequence[bytes], at: BlockRef, *, together: bool) -> list[bytes | None]:
        if not together or not await self._has_multicall():
            return await self._each(calls, at)
        request = encode_aggregate3(self.contract, calls)
        replies = decode_aggregate3(await self._read(request, at, to=MULTICALL3), len(calls))
        # A sub-call that failed may have run out of its share of gas, so it is repeated alone.
        failed = [i for i, reply in enumerate(replies) if reply is None]
        for index, reply in zip(failed, await self._each([calls[i] for i in failed], at), strict=True):
            replies[index] = reply
        return replies

    async def _each(self, calls: Sequence[bytes], at: BlockRef) -> list[bytes | None]:
        """Make each call separately, all in one exchange. A reverted call yields None."""
        if not calls:
            return []
        requests = [("eth_call", _request(self.contract, call, at)) for call in calls]
        answers = await self.caller.call_many(requests, deadline=_DEADLINE, lag=LAG)
        return [None if isinstance(a, CallRevertedError) else data(a, "call result") for a in answers]

    async def _read(self, call: bytes, at: BlockRef, to: Address | None = None) -> bytes:
        """Make one call that is not expected to revert."""
        try:
            return await self._call(call, at, to)
        except CallRevertedError as error:
            raise EndpointError("the contract reverts a read") from error

    async def _call(self, call: bytes, at: BlockRef, to: Address | None = None) -> bytes:
        """Make one call. Raises `CallRevertedError` and `ChainError`."""
        request = _request(to or self.contract, call, at)
        return data(await self.caller.call("eth_call", *request, deadline=_DEADLINE, lag=LAG), "call result")

    async def _has_multicall(self) -> bool:
        if self.memory.multicall is None:
            code = data(await self.caller.call("eth_getCode", MULTICALL3, "latest"), "code")
            self.memory.multicall = bool(code)
        return self.memory.multicall


def _request(to: Address, call: bytes, at: BlockRef) -> list[Json]:
    return [{"to": to, "data": "0x" + call.hex()}, {"blockHash": at.hash}]


async def _halving(
    read: Callable[[Sequence[TokenId]], Awaitable[list[TokenState]]], tokens: Sequence[TokenId]
) -> list[TokenState]:
    """Read the tokens together. Halve the request when it is too large."""
    try:
        return await read(tokens)
    except RangeError as error:
        if len(tokens) == 1:
            raise EndpointError("the endpoint can't serve the state of one token") from error
    half = len(tokens) // 2
    return await _halving(read, tokens[:half]) + await _halving(read, tokens[half:])


async def _together(work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Return all results, computed a few at a time.

    Raises the first error itself, after all other work was cancelled.
    """
    limit = asyncio.Semaphore(_PAGES_IN_FLIGHT)

    async def one(start: Callable[[], Awaitable[T]]) -> T:
        async with limit:
            return await start()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(start)) for start in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
