"""The meaning of an endpoint's errors: retry, ask for less, ask another endpoint, or accept the refusal.

There is no standard worth the name. The codes of EIP-1474 are used by few and overloaded by most (-32005 is
Infura's "too many requests" and its "too many results"), so free text decides first, and the code only where
the text says nothing. The table lists what geth, reth, Nethermind, Erigon, Besu, op-geth, anvil and the large
providers send; the order matters, the first row that matches wins.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, RangeError, RetryError


@dataclass(frozen=True, slots=True)
class Fault:
    """The error member of a reply."""

    code: int
    message: str
    data: bytes | None = None
    detail: str = ""
    """The ``data`` member, if it is a text: some endpoints put the reason there."""


class UnknownBlockError(RetryError):
    """The endpoint does not have that block: not yet (a backend that lags), or not any more (a reorg)."""


class UnsupportedError(EndpointError):
    """The endpoint does not offer that method or parameter."""


class _Kind(Enum):
    RANGE = auto()
    RETRY = auto()
    REVERTED = auto()
    UNKNOWN_BLOCK = auto()
    UNSUPPORTED = auto()
    USELESS = auto()


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_TEXTS: Final = (
    # A pruned state is not coming back: another endpoint may have it.
    (_Kind.USELESS, _words("missing trie node", "state (is )?(not available|unavailable|pruned)", "pruned",
                           "historical state", "archive")),
    (_Kind.REVERTED, _words("revert")),
    (_Kind.UNKNOWN_BLOCK, _words("header not found", "unknown block", "block.{0,80}not found",
                                 "resource not found", "block ?out ?of ?range", "no such block",
                                 "could not find block", "unknown (header|hash)", "hash.{0,80}not found",
                                 "after last accepted block", "beyond (the )?(current )?head",
                                 "block is out ?of ?range")),
    (_Kind.RETRY, _words("rate.?limit", "too many requests", "request (count|limit)", "requests? per",
                         "compute units", "throughput", "capacity", "credits", "quota", "throttl")),
    (_Kind.RANGE, _words("block range", "ranges? over", "exceed.{0,40}(range|results|blocks)",
                         "range.{0,20}(large|wide|exceed|limit|big)", "limited to.{0,40}(range|block)",
                         "too many (results|logs|blocks)", "returned more than",
                         "more than.{0,20}(results|logs)",
                         "(response|result|payload|body|reply).{0,20}(size|large|big|exceed|limit)",
                         "too (large|big)", "max(imum)? (results|logs|block)", "batch (size|limit|too)",
                         "out ?of ?gas", "gas.{0,40}(exceed|limit|cap|too)", "exceed.{0,40}gas",
                         "query timeout", "execution (aborted|timeout|timed out)", "log response size")),
    (_Kind.RETRY, _words("time.?out", "timed out", "unavailable", "internal error", "limit exceeded",
                         "try again", "retry", "temporar", "overloaded", "busy",
                         "deadline exceeded", "context cancel")),
    (_Kind.REVERTED, _words("invalid ?(fe)? ?opcode", "stack underflow", "bad jump", "invalid ?jump")),
    (_Kind.UNSUPPORTED, _words("method.{0,80}not (found|supported|available|allowed|exist)", "not supported",
                               "unsupported", "does not exist", "not implemented", "not whitelisted",
                               "finalized", "safe block")),
)  # fmt: skip

_CODES: Final = {
    3: _Kind.REVERTED,
    429: _Kind.RETRY,
    -32001: _Kind.UNKNOWN_BLOCK,  # EIP-1474: resource not found
    -32002: _Kind.RETRY,  # resource unavailable
    -32004: _Kind.UNSUPPORTED,  # method not supported
    -32005: _Kind.RETRY,  # limit exceeded
    -32010: _Kind.RETRY,  # proxyd: too many requests in a batch, or a backend's reply is unusable
    -32011: _Kind.RETRY,  # proxyd: no backends available
    -32014: _Kind.RETRY,  # proxyd: too large a reply from a backend, or a backend that is overloaded
    -32015: _Kind.REVERTED,  # VM execution error (OpenEthereum, Nethermind)
    -32016: _Kind.RETRY,  # over rate limit (the OP stack's proxyd)
    -32019: _Kind.UNKNOWN_BLOCK,  # proxyd: block is out of range of the consensus group
    -32601: _Kind.UNSUPPORTED,
    -32602: _Kind.UNSUPPORTED,
    -32603: _Kind.RETRY,  # internal error
    -32614: _Kind.RANGE,  # eth_getLogs is limited (Base)
}


def _kind(fault: Fault) -> _Kind:
    if fault.code == 3:  # geth's own code for a revert: the text may be the contract's, hence anybody's
        return _Kind.REVERTED
    for kind, words in _TEXTS:
        if words.search(f"{fault.message[:1000]} {fault.detail[:1000]}"):
            return kind
    return _CODES.get(fault.code, _Kind.USELESS)


def classify(fault: Fault, method: str, said: str, retry_after: float | None = None) -> ChainError:
    """The error to raise; ``said`` is the endpoint's text, made fit for our logs."""
    sentence = f"{method}: the endpoint answered {said or 'an error without a text'} (code {fault.code})"
    match _kind(fault):
        case _Kind.RANGE:
            return RangeError(sentence)
        case _Kind.RETRY:
            return RetryError(sentence, retry_after)
        case _Kind.UNKNOWN_BLOCK:
            return UnknownBlockError(sentence, retry_after)
        case _Kind.REVERTED:
            return CallRevertedError(sentence, fault.data or b"")
        case _Kind.UNSUPPORTED:
            return UnsupportedError(sentence)
        case _Kind.USELESS:
            return EndpointError(sentence)
