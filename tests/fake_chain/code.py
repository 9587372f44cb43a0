"""The few opcodes that the code of an ``eth_call`` without a contract uses (Yellow Paper, H.2)."""

from collections.abc import Callable

from tests.fake_chain.registry import RevertError

_WORD = 2**256
_PAST = 256
_HISTORY = 0x0000F90827F1C53A10CB7A02335B175320002935
"""The contract of EIP-2935."""


def run(
    code: bytes, number: int, timestamp: int, hash_of: Callable[[int], str], call: Callable[[bytes], bytes]
) -> bytes:
    """Run the code in a block, and return its output.

    ``hash_of`` returns a block's hash, and ``call`` the reply to a call of the registry, or raises
    `RevertError`.
    """
    memory, stack, replied, at = bytearray(1024), list[int](), b"", 0

    def pop() -> int:
        return stack.pop()

    while True:
        opcode, at = code[at], at + 1
        match opcode:
            case _ if 0x60 <= opcode <= 0x7F:
                size = opcode - 0x5F
                stack.append(int.from_bytes(code[at : at + size], "big"))
                at += size
            case 0x01:
                stack.append((pop() + pop()) % _WORD)
            case 0x03:
                stack.append((pop() - pop()) % _WORD)
            case 0x11:
                stack.append(int(pop() > pop()))
            case 0x16:
                stack.append(pop() & pop())
            case 0x17:
                stack.append(pop() | pop())
            case 0x1B:
                shift = pop()
                stack.append((pop() << shift) % _WORD)
            case 0x3D:
                stack.append(len(replied))
            case 0x40:
                height = pop()
                known = max(number - _PAST, 0) <= height < number
                stack.append(int(hash_of(height), 16) if known else 0)
            case 0x42:
                stack.append(timestamp)
            case 0x43:
                stack.append(number)
            case 0x50:
                pop()
            case 0x51:
                start = pop()
                stack.append(int.from_bytes(memory[start : start + 32], "big"))
            case 0x52:
                start = pop()
                memory[start : start + 32] = pop().to_bytes(32, "big")
            case 0x5A:
                stack.append(30_000_000)
            case 0x80:
                stack.append(stack[-1])
            case 0x90:
                stack[-1], stack[-2] = stack[-2], stack[-1]
            case 0xFA:
                _, to, start, length, into, room = (pop() for _ in range(6))
                calldata = bytes(memory[start : start + length])
                try:
                    if to == _HISTORY:
                        height = int.from_bytes(calldata, "big")
                        replied = bytes.fromhex(hash_of(height)[2:]) if height < number else b""
                    else:
                        replied = call(calldata)
                except RevertError:
                    replied = b""
                    stack.append(0)
                else:
                    stack.append(1)
                    memory[into : into + min(room, len(replied))] = replied[:room]
            case 0xF3:
                start, length = pop(), pop()
                return bytes(memory[start : start + length])
            case _:
                raise AssertionError(f"unknown opcode {opcode:#x}")
