"""Classification of an endpoint's errors.

The class of the error decides the reaction: retry, request less, use another endpoint, or accept
the refusal.

Endpoints follow no common standard. Few use the codes of EIP-1474, and most give them several
meanings: -32005 is Infura's code for "too many requests" and for "too many results". Therefore the
message decides first, and the code only if the message matches no row. The table contains the
messages of geth, reth, Nethermind, Erigon, Besu, op-geth, anvil and the large providers. The first
row that matches decides, so their order matters.
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
    """The ``data`` member, if it is a string. Some endpoints put the reason there."""


class UnknownBlockError(RetryError):
    """The endpoint does not know the block: its backend lags, or a reorg removed the block."""


class UnsupportedError(EndpointError):
    """The endpoint does not support the method or the parameter."""


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
    # A pruned state does not return, but another endpoint may have it.
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
    -32014: _Kind.RETRY,  # proxyd: a reply of a backend is too large, or the backend is overloaded
    -32015: _Kind.REVERTED,  # VM execution error (OpenEthereum, Nethermind)
    -32016: _Kind.RETRY,  # over rate limit (the OP stack's proxyd)
    -32019: _Kind.UNKNOWN_BLOCK,  # proxyd: block is out of range of the consensus group
    -32601: _Kind.UNSUPPORTED,
    -32602: _Kind.UNSUPPORTED,
    -32603: _Kind.RETRY,  # internal error
    -32614: _Kind.RANGE,  # eth_getLogs is limited (Base)
}


def _kind(fault: Fault) -> _Kind:
    if fault.code == 3:  # geth's code for a revert. The contract may have chosen the message.
        return _Kind.REVERTED
    for kind, words in _TEXTS:
        if words.search(f"{fault.message[:1000]} {fault.detail[:1000]}"):
            return kind
    return _CODES.get(fault.code, _Kind.USELESS)


def classify(fault: Fault, method: str, text: str, retry_after: float | None = None) -> ChainError:
    """Return the error to raise. ``text`` is the endpoint's message, fit for the log."""
    message = f"{method}: the endpoint replied {text or 'an error without a message'} (code {fault.code})"
    match _kind(fault):
        case _Kind.RANGE:
            return RangeError(message)
        case _Kind.RETRY:
            return RetryError(message, retry_after)
        case _Kind.UNKNOWN_BLOCK:
            return UnknownBlockError(message, retry_after)
        case _Kind.REVERTED:
            return CallRevertedError(message, fault.data or b"")
        case _Kind.UNSUPPORTED:
            return UnsupportedError(message)
        case _Kind.USELESS:
            return EndpointError(message)
