"""Block headers of a public network's size.

anvil's headers have the fields of Base's, but shorter numbers and no extra data: a notification has
1,840 bytes, and on Base about 60 more. A block that is read without its transactions lists their
hashes, of 69 bytes each with quotes and comma. A block of 200 ms on Base has about 30.
"""

import json
from typing import Any, Final, TypeGuard

NOTIFICATION: Final = 1900
"""The bytes of a `newHeads` notification."""
REPLY: Final = 4000
"""The bytes of a block with hashes, the reply to `eth_getBlockByNumber` or `eth_getBlockByHash`."""
TRANSACTIONS: Final = 30
"""The transactions of a block."""
PADDING: Final = "padding"
"""The field that fills a header. Clients ignore unknown fields."""


def padded(message: dict[str, Any]) -> dict[str, Any]:
    """Return a notification or a reply, with its header extended; other messages are unchanged."""
    if message.get("method") == "eth_subscription":
        header = message["params"]["result"]
        if not is_header(header):
            return message
        return _filled(message, header, NOTIFICATION)
    header = message.get("result")
    if not is_header(header) or "transactions" not in header:
        return message
    missing = TRANSACTIONS - len(header["transactions"])
    header["transactions"] = header["transactions"] + [f"0x{number:064x}" for number in range(missing)]
    return _filled(message, header, REPLY)


def is_header(found: object) -> TypeGuard[dict[str, Any]]:
    """Return whether an object is a header, and not a log or another result."""
    return isinstance(found, dict) and "parentHash" in found


def encoded(message: object) -> str:
    """Return a message as the endpoint writes it, without spaces."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def _filled(message: dict[str, Any], header: dict[str, Any], size: int) -> dict[str, Any]:
    # No block of a busy chain has an empty filter. With a full one, no client can exclude any log.
    header["logsBloom"] = "0x" + "ff" * 256
    header[PADDING] = ""
    header[PADDING] = "0" * max(size - len(encoded(message).encode()), 0)
    return message
