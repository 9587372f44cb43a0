"""A binding of libnftables(3), the library of the ``nft`` program.

A context has one netlink socket, in the network namespace of the thread that made it. A context is
used by one thread at a time. ctypes releases the interpreter's lock during each call.

Sources: nftables/libnftables.h, and libnftables(3) for the ownership of buffers: a buffer is valid
until the next command.
"""

import ctypes
from ctypes import c_char_p, c_int, c_uint, c_uint32, c_void_p
from enum import IntFlag
from typing import Final

from dstack_vpn.adapters.firewall import ruleset
from dstack_vpn.errors import FirewallError

LIBRARY: Final = "libnftables.so.1"
_PROBLEMS: Final = (
    ("Operation not permitted", ruleset.NOT_PERMITTED),
    ("Operation not supported", ruleset.NOT_SUPPORTED),
)
_SIGNATURES: Final = {
    "nft_ctx_new": (c_void_p, (c_uint32,)),
    "nft_ctx_free": (None, (c_void_p,)),
    "nft_ctx_buffer_output": (c_int, (c_void_p,)),
    "nft_ctx_buffer_error": (c_int, (c_void_p,)),
    "nft_ctx_get_output_buffer": (c_char_p, (c_void_p,)),
    "nft_ctx_get_error_buffer": (c_char_p, (c_void_p,)),
    "nft_ctx_output_set_flags": (None, (c_void_p, c_uint)),
    "nft_run_cmd_from_buffer": (c_int, (c_void_p, c_char_p)),
}
_DEFAULT: Final = 0
"""NFT_CTX_DEFAULT"""


class Output(IntFlag):
    """Flags for what a command prints: NFT_CTX_OUTPUT_*."""

    PLAIN = 0
    STATELESS = 1 << 2
    """Without the values of counters."""
    NUMERIC_PROTO = 1 << 7
    """IP protocols as numbers."""
    TERSE = 1 << 11
    """Without the elements of named sets and maps."""


def is_available(library: str = LIBRARY) -> bool:
    """Return True if the library is installed."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class Libnftables:
    """A context. It is made at its first command."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._library = library
        self._calls: ctypes.CDLL | None = None
        self._context: int | None = None
        self._generation: ruleset.GenerationReader | None = None

    @property
    def is_available(self) -> bool:
        """True if the library is installed."""
        return is_available(self._library)

    def run(self, commands: str, output: Output = Output.PLAIN) -> str:
        """Execute commands as one transaction, and return what they print.

        Blocks. Raises `FirewallError`.
        """
        calls, context = self._opened()
        calls.nft_ctx_output_set_flags(context, output)
        code = calls.nft_run_cmd_from_buffer(context, commands.encode())
        printed: bytes = calls.nft_ctx_get_output_buffer(context) or b""
        errors: bytes = calls.nft_ctx_get_error_buffer(context) or b""
        if code:
            raise FirewallError(explain(errors.decode("utf-8", "replace")))
        return printed.decode("utf-8", "replace")

    def generation(self) -> int:
        """See `ruleset.GenerationReader.read`."""
        if self._generation is None:
            self._generation = ruleset.GenerationReader()
        try:
            return self._generation.read()
        except FirewallError:
            # A reply that comes late would be taken for that of the next request.
            self._generation.close()
            self._generation = None
            raise

    def close(self) -> None:
        """Free the context. The next command makes a new one."""
        if self._calls is not None and self._context is not None:
            self._calls.nft_ctx_free(self._context)
        if self._generation is not None:
            self._generation.close()
        self._calls = self._context = self._generation = None

    def _opened(self) -> tuple[ctypes.CDLL, int]:
        if self._calls is None or self._context is None:
            calls = _load(self._library)
            # The library calls exit() if it can't open a socket of this kind.
            self.generation()
            context = calls.nft_ctx_new(_DEFAULT)
            if not context:
                raise FirewallError("libnftables: out of memory")
            calls.nft_ctx_buffer_output(context)
            calls.nft_ctx_buffer_error(context)
            self._calls, self._context = calls, context
        return self._calls, self._context


def _load(library: str) -> ctypes.CDLL:
    try:
        calls = ctypes.CDLL(library)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(calls, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        raise FirewallError(
            "libnftables is not installed: apt install nftables, or switch off LEAK_PROTECTION and FORWARD_TO"
        ) from None
    return calls


def explain(errors: str) -> str:
    """Return a message for what the library prints about an error."""
    for pattern, meaning in _PROBLEMS:
        if pattern in errors:
            return meaning
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    # Lines about what the kernel holds come before the line about our commands.
    about = [line for line in lines if not line.startswith("netlink:")] or lines
    return f"nftables refuses the rules: {about[0] if about else 'no message'}"
