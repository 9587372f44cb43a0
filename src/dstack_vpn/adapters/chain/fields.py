"""Parsers of JSON values: quantities, data, block headers and logs.

The encodings are those of the Ethereum JSON-RPC specification (ethereum/execution-apis): quantities
and data are hexadecimal strings with ``0x``. All functions raise only `EndpointError`.
"""

import re
from typing import Final

from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import Log

_QUANTITY: Final = re.compile(r"0[xX]0{0,64}([0-9a-fA-F]{1,16})", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_MAX_TOPICS: Final = 4


def quantity(value: Json, what: str) -> int:
    """Parse an unsigned integer of at most 64 bits: a height, a time or an index.

    Some endpoints pad it with zeros to 32 bytes, or send a JSON number.
    """
    if type(value) is int and 0 <= value < 2**64:
        return value
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise EndpointError(f"the endpoint's {what} is not a hexadecimal quantity")
    return int(found[1], 16)


def chain_id(value: Json) -> int:
    """Parse a chain id. Some endpoints send it as a decimal string."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return int(value)
    return quantity(value, "chain id")


def hash32(value: Json, what: str) -> str:
    """Parse a 32-byte hash. Return it in lower case."""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise EndpointError(f"the endpoint's {what} is not a 32-byte hash")
    return value.lower()


def data(value: Json, what: str) -> bytes:
    """Parse a byte string of any length."""
    if not isinstance(value, str) or not value.startswith("0x") or len(value) % 2:
        raise EndpointError(f"the endpoint's {what} is not hexadecimal data")
    try:
        decoded = bytes.fromhex(value[2:])
    except ValueError:
        decoded = None
    # `fromhex` skips whitespace, which the length reveals.
    if decoded is None or len(decoded) != len(value) // 2 - 1:
        raise EndpointError(f"the endpoint's {what} is not hexadecimal data")
    return decoded


def mapping(value: Json, what: str) -> dict[str, Json]:
    """Return the value if it is a JSON object."""
    if not isinstance(value, dict):
        raise EndpointError(f"the endpoint's {what} is {'null' if value is None else 'not an object'}")
    return value


def sequence(value: Json, what: str) -> list[Json]:
    """Return the value if it is a JSON array."""
    if not isinstance(value, list):
        raise EndpointError(f"the endpoint's {what} is {'null' if value is None else 'not a list'}")
    return value


def parse_header(value: Json) -> BlockRef:
    """Parse a block header into the four fields that the daemon uses."""
    header = mapping(value, "block")
    return BlockRef(
        number=quantity(header.get("number"), "block number"),
        hash=hash32(header.get("hash"), "block hash"),
        parent_hash=hash32(header.get("parentHash"), "parent hash"),
        timestamp=quantity(header.get("timestamp"), "timestamp"),
    )


def storage_root(value: Json) -> str:
    """Parse the root hash of an account's storage from an ``eth_getProof`` reply (EIP-1186)."""
    return hash32(mapping(value, "proof").get("storageHash"), "storage hash")


def log_address(value: Json) -> str:
    """Return the address of the contract that a log names, in lower case."""
    address = mapping(value, "log").get("address")
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise EndpointError("the endpoint's log has no address")
    return address.lower()


def parse_log(value: Json) -> Log:
    """Parse a log from a subscription or from ``eth_getLogs``."""
    log = mapping(value, "log")
    topics = sequence(log.get("topics"), "log's topics")
    if len(topics) > _MAX_TOPICS:
        raise EndpointError("the endpoint's log has more than four topics")
    removed = log.get("removed")
    removed = False if removed is None else removed
    if not isinstance(removed, bool):
        raise EndpointError("the endpoint's log has a 'removed' that is neither true nor false")
    return Log(
        topics=tuple(hash32(topic, "log topic") for topic in topics),
        data=data(log.get("data"), "log data"),
        block_number=quantity(log.get("blockNumber"), "log's block number"),
        block_hash=hash32(log.get("blockHash"), "log's block hash"),
        log_index=quantity(log.get("logIndex"), "log index"),
        removed=removed,
    )
