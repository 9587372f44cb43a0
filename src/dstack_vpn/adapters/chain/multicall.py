"""Multicall3's ``aggregate3``: many reads of one block in one ``eth_call``.

Multicall3 has the same address on nearly every chain (github.com/mds1/multicall). The ABI is
encoded and decoded by hand, like all data on the daemon's path. A sub-call that ran out of gas
looks like one that reverted, so callers repeat a failed call alone.
"""

from collections.abc import Sequence
from typing import Final

from dstack_vpn.errors import EndpointError

MULTICALL3: Final = "0xca11bde05977b3631167028862be2a173976ca11"
_AGGREGATE3: Final = bytes.fromhex("82ad56cb")  # aggregate3((address,bool,bytes)[])
_WORD: Final = 32


def _word(number: int) -> bytes:
    return number.to_bytes(_WORD, "big")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _WORD)


def encode_aggregate3(target: str, calls: Sequence[bytes]) -> bytes:
    """Return calldata for calls to ``target``, each of which may fail alone."""
    address = bytes(12) + bytes.fromhex(target.removeprefix("0x"))
    items = [address + _word(1) + _word(3 * _WORD) + _word(len(call)) + _padded(call) for call in calls]
    return _AGGREGATE3 + _word(_WORD) + _word(len(items)) + _offsets(items) + b"".join(items)


def _offsets(items: Sequence[bytes]) -> bytes:
    """Return the start of each dynamic item, counted from the first offset."""
    position, offsets = len(items) * _WORD, []
    for item in items:
        offsets.append(_word(position))
        position += len(item)
    return b"".join(offsets)


def decode_aggregate3(reply: bytes, expected: int) -> list[bytes | None]:
    """Return the return data of the calls in order, with None for a failed call.

    Raises `EndpointError`.
    """
    start = _integer(reply, 0) + _WORD
    if _integer(reply, start - _WORD) != expected:
        raise EndpointError(f"Multicall3 did not return {expected} results")
    results: list[bytes | None] = []
    left = len(reply)
    for i in range(expected):
        result = _result(reply, start + _integer(reply, start + i * _WORD))
        left -= len(result or b"")
        if left < 0:  # results that share bytes would expand a small reply to much memory
            raise EndpointError("Multicall3's results overlap")
        results.append(result)
    return results


def _result(reply: bytes, at: int) -> bytes | None:
    """Decode one ``(bool success, bytes returnData)``."""
    data_at = at + _integer(reply, at + _WORD)
    length = _integer(reply, data_at)
    data = reply[data_at + _WORD : data_at + _WORD + length]
    if len(data) != length:
        raise EndpointError("Multicall3's reply is truncated")
    return data if _integer(reply, at) else None


def _integer(reply: bytes, at: int) -> int:
    """Return the word at an offset. Raises `EndpointError` if it is outside of the reply."""
    word = reply[at : at + _WORD]
    if at < 0 or len(word) != _WORD:
        raise EndpointError("Multicall3's reply is truncated")
    return int.from_bytes(word, "big")
