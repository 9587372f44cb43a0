"""One ``eth_call`` that shows whether a chain still has our block, its end and the revision.

A header of a chain with full blocks takes kilobytes, because it has the hashes of all transactions.
This call takes half a kilobyte in both directions. It has no ``to``: the endpoint runs the given
code as a contract creation, which no block includes, and returns its output. The code returns these
words of 32 bytes (opcodes of the Yellow Paper, H.2):

    NUMBER << 128 | TIMESTAMP    of the latest block
    BLOCKHASH(NUMBER - 1)
    BLOCKHASH(NUMBER - 2)
    BLOCKHASH(number)            for each known block; 0 for other than the last 256 blocks, except
                                 where the chain keeps older hashes in a contract (EIP-2935)
    revision()                   if the contract has it, and the call succeeds

A chain on which these opcodes have another meaning (NUMBER on Arbitrum is a height of Ethereum)
returns other hashes than ours, which proves nothing.
"""

from collections.abc import Sequence
from typing import Final

from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.model import Address, BlockRef
from dstack_vpn.errors import EndpointError

_WORD: Final = 32
_RECENT: Final = 128
"""Blocks below the first known one that are certainly among the last 256."""
_HISTORY: Final = "0000f90827f1c53a10cb7a02335b175320002935"
"""The contract of EIP-2935."""
_FIXED: Final = 3
"""The words before the known blocks."""


def encode(known: Sequence[BlockRef], contract: Address, revision_call: bytes | None) -> bytes:
    """Return the code for these blocks; ``revision_call`` is a selector of 4 bytes."""
    code = [
        "43 80 6080 1b 42 17 6000 52",  # MSTORE(0, NUMBER << 128 | TIMESTAMP), and keep NUMBER
        "80 6001 90 03 40 6020 52",  # MSTORE(32, BLOCKHASH(NUMBER - 1))
        "6002 90 03 40 6040 52",  # MSTORE(64, BLOCKHASH(NUMBER - 2))
    ]
    end = f"60{(_FIXED + len(known)) * _WORD:02x}"
    for index, block in enumerate(known, _FIXED):
        number, word = f"67{block.number:016x}", f"60{index * _WORD:02x}"
        if block.number < known[0].number - _RECENT:
            code += [
                f"{number} {end} 52 6020 {word} 6020 {end}",
                f"73{_HISTORY} 5a fa 50",  # STATICCALL: the word is the hash, or stays 0
                f"{word} 51 {number} 40 17 {word} 52",  # MSTORE(word, MLOAD(word) | BLOCKHASH(number))
            ]
        else:
            code.append(f"{number} 40 {word} 52")  # MSTORE(word, BLOCKHASH(number))
    if revision_call is None:
        code.append(f"{end} 6000 f3")  # RETURN(0, end)
    else:
        code += [
            f"63{revision_call.hex()} 60e0 1b {end} 52",  # MSTORE(end, selector << 224)
            f"6020 {end} 6004 {end}",  # the reply replaces the selector
            f"73{contract.removeprefix('0x')} 5a fa",  # STATICCALL(GAS, contract, ..)
            f"601f 3d 11 16 6005 1b {end} 01",  # end + 32 if it succeeded with 32 bytes or more
            "6000 f3",  # RETURN(0, ..)
        ]
    return bytes.fromhex(" ".join(code))


def parse(reply: bytes, known: Sequence[BlockRef]) -> Extension | None:
    """Return what the code has shown; None if the chain does not have all of our blocks.

    Raises `EndpointError` for an invalid reply.
    """
    words = [reply[start : start + _WORD] for start in range(0, len(reply), _WORD)]
    fixed = _FIXED + len(known)
    if len(reply) % _WORD or not fixed <= len(words) <= fixed + 1:
        raise EndpointError(f"the endpoint returned {len(reply)} bytes of code output")
    latest, timestamp = (int.from_bytes(half, "big") for half in (words[0][:16], words[0][16:]))
    revision = int.from_bytes(words[fixed], "big") if len(words) > fixed else None
    if latest >= 2**64 or timestamp >= 2**64 or (revision or 0) >= 2**64:
        raise EndpointError("the endpoint returned a number of more than 64 bits as code output")
    hashes = ["0x" + word.hex() for word in words[1:fixed]]
    if hashes[2:] != [block.hash for block in known] or any(block.number >= latest for block in known):
        return None
    head = BlockRef(latest - 1, hashes[0], hashes[1], timestamp)
    return Extension(known[0], head, revision)
