"""Decoders of an RPC endpoint's data: messages, logs, events, the contract's state."""

from typing import Final

from tests.fuzz.cursor import Cursor
from tests.unit.core.chain.invited import sealed

from dstack_vpn.adapters.chain import fields, jsonrpc, transport
from dstack_vpn.adapters.chain.faults import classify
from dstack_vpn.adapters.chain.multicall import decode_aggregate3
from dstack_vpn.adapters.contracts import ABIS, AccessRegistry, DstackAccessNft
from dstack_vpn.adapters.contracts.abi import Reader
from dstack_vpn.adapters.contracts.reverts import describe_revert
from dstack_vpn.adapters.contracts.token_uri import endpoint_of
from dstack_vpn.config import parsers
from dstack_vpn.core.chain import enrolment_file
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.model import BlockRef, Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.errors import ChainError, FormatError
from dstack_vpn.ports import Log

BLOCK: Final = BlockRef(7, "0x" + "22" * 32, "0x" + "33" * 32, 1_700_000_000)
TOPICS: Final = (*sorted({topic for abi in ABIS.values() for topic in abi.topics}), "0x" + "ee" * 32)
_OURS, _DEPLOYED = AccessRegistry(), DstackAccessNft()


def abi(data: bytes) -> object:
    """Decode an array of tuples, each with one text."""
    reader = Reader(data)
    return [reader.blob(base, base) for base in reader.tuples(0, 0)]


def messages(data: bytes) -> object:
    """Decode a frame; classify and describe its errors."""
    found = jsonrpc.decode(data)
    for message in found:
        if isinstance(message, jsonrpc.Response) and message.fault is not None:
            error = classify(message.fault, "eth_call", jsonrpc.excerpt(message.fault.message))
            assert isinstance(error, ChainError)
            describe_revert(message.fault.data or b"")
    return found


def retry_after(data: bytes) -> object:
    """Parse a ``Retry-After`` header and a ``Date`` header, one on each line."""
    delay, _, date = data.decode("latin-1").partition("\n")
    pause = transport.retry_after({"Retry-After": delay, "Date": date})
    assert pause is None or 0 <= pause <= transport.LONGEST_RETRY_AFTER
    return pause


def subscriptions(data: bytes) -> object:
    """Decode a frame of heads, logs or proofs; decode each log with both contracts' decoders."""
    events: list[object] = []
    for message in jsonrpc.decode(data):
        result = message.result
        if isinstance(result, dict) and "parentHash" in result:
            events.append(fields.parse_header(result))
        elif isinstance(result, dict) and "storageHash" in result:
            events.append(fields.storage_root(result))
        else:
            fields.log_address(result)
            events += _decoded(fields.parse_log(result))
    return events or None


def event(data: bytes) -> object:
    """Decode a log with any topics and data.

    The first byte selects the event, and the second the number of further topics. The topics and
    the data follow.
    """
    cursor = Cursor(data)
    first, count = TOPICS[cursor.byte() % len(TOPICS)], cursor.byte() % 5
    topics = tuple("0x" + cursor.take(32).hex() for _ in range(count))
    found = _decoded(Log((first, *topics), cursor.rest(), BLOCK.number, BLOCK.hash, 0, removed=False))
    if not found:
        raise FormatError("no contract has this event")
    return found


def _decoded(log: Log) -> list[object]:
    """Return the events of those contracts' decoders that accept the log."""
    found: list[object] = []
    for each in ABIS.values():
        try:
            found += filter(None, [each.decode(log)])
        except FormatError:
            continue
    return found


def state(data: bytes) -> object:
    """Parse a token, a page, or the own state of our contract, or the deployed one's replies."""
    kind, rest = data[:1], data[1:]
    if kind == b"p":
        return _OURS.parse_page(rest, BLOCK)
    if kind == b"t":
        return _OURS.parse_token(5, [rest], BLOCK)
    cursor = Cursor(rest)
    absent = cursor.byte()
    if kind in (b"c", b"y"):
        count = 7 if kind == b"c" else 2
        own = [None if absent >> i & 1 else cursor.blob() for i in range(count)]
        return _OURS.parse_contract(own) if kind == b"c" else _OURS.parse_policy(own)
    replies = [None if absent >> i & 1 else cursor.blob() for i in range(3)]
    return _DEPLOYED.parse_token(5, replies, BLOCK)


def multicall(data: bytes) -> object:
    """Decode the results of ``aggregate3``; the first byte is the expected number of results."""
    results = decode_aggregate3(data[1:], data[0] if data else 0)
    assert sum(len(result or b"") for result in results) <= len(data)
    return results


def revert(data: bytes) -> object:
    """Return a revert's reason; None for an unknown or malformed error."""
    reason = describe_revert(data)
    assert len(reason) < 2000
    assert reason.isprintable()
    return None if reason.startswith("reverted with an ") else reason


def enrolment(text: str) -> object:
    """Parse a file of nodes to be registered; the checksums of accounts are checked elsewhere."""
    return enrolment_file.parse(text, parsers.address)


def invitation(data: bytes) -> object:
    """Parse the content of an invitation's code, behind a valid checksum."""
    text = sealed(data)
    found = InvitationCode.decode(text)
    assert found.encode() == text
    assert found.claim_key is None or found.claim_key.reveal().hex() not in repr(found)
    return found


def token_uri(data: bytes) -> object:
    """Return the endpoint in a token URI; None if it has none, or a malformed one."""
    found = endpoint_of(data)
    return None if isinstance(found, Malformed) else found


def peer_endpoint(data: bytes) -> object:
    """Parse a peer's endpoint; its text must parse to an equal value."""
    found = PeerEndpoint.parse(data.decode("utf-8", "replace"))
    assert PeerEndpoint.parse(str(found)) == found
    return found
