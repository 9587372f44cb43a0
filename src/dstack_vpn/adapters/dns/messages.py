"""A codec for DNS messages (RFC 1035, EDNS by RFC 6891). It does no IO.

dnspython parses and builds the messages. Importing this module imports it, which happens at the
first query.
"""

import struct
from collections.abc import Callable
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from dstack_vpn.core.names import Answer, DnsStatus
from dstack_vpn.errors import FormatError

TTL: Final = 1
"""Seconds for which a reply may be cached. A revoked member's name is gone a second later."""
HEADER: Final = 12
"""Bytes of the header."""
PLAIN: Final = 512
"""Bytes of a reply over UDP to a client without EDNS."""
PAYLOAD: Final = 1232
"""Bytes of any reply over UDP: the size that is never fragmented (DNS flag day 2020)."""
LONGEST: Final = 4096
"""The longest query that is parsed, in bytes."""
_RESPONSE: Final = 0x80
_FORWARDED_FLAGS: Final = dns.flags.RD | dns.flags.AD | dns.flags.CD
_LABEL: Final = 63
_EDNS: Final = b"\0\0\x29"
"""The start of an OPT record: the root name and type 41."""
_WITHOUT_QUESTION: Final = (dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED)
"""Response codes that some servers send without the question."""
_OPCODE: Final = 0x78
"""The opcode bits in the header's third byte. 0 is a standard query."""

_RCODES: Final = {
    DnsStatus.FOUND: dns.rcode.NOERROR,
    DnsStatus.NO_DATA: dns.rcode.NOERROR,
    DnsStatus.NO_NAME: dns.rcode.NXDOMAIN,
    DnsStatus.FOREIGN: dns.rcode.REFUSED,
}

Query = dns.message.Message


def parse(data: bytes) -> Query:
    """Return a client's query. Raises `FormatError` if it is malformed."""
    if not HEADER <= len(data) <= LONGEST or data[2] & (_RESPONSE | _OPCODE) or not _is_lone(data):
        raise FormatError("not a DNS query")
    try:
        return dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError) as error:
        raise FormatError(f"not a DNS message: {type(error).__name__}") from error


def _is_lone(data: bytes) -> bool:
    """Return True if the query has one question and no other records except EDNS.

    dnspython looks for a module for each type and class of a record, and caches the result
    permanently. A query could contain 300 of these.
    """
    questions, answers, authorities, additional = struct.unpack_from("!4H", data, 4)
    end = _question_end(data)
    if (questions, answers, authorities) != (1, 0, 0) or additional > 1 or not end:
        return False
    return not additional or data[end : end + len(_EDNS)] == _EDNS


def _question_end(data: bytes) -> int:
    """Return the end of the first question, or 0 if it has no uncompressed name."""
    at = HEADER
    while at < len(data) and (length := data[at]):
        if length > _LABEL:
            return 0
        at += 1 + length
    return at + 5


def answers(asked: bytes, data: bytes) -> bool:
    """Return True if the data is a reply to exactly this query (RFC 5452)."""
    if len(data) < HEADER or data[:2] != asked[:2] or data[2] & (_RESPONSE | _OPCODE) != _RESPONSE:
        return False
    count, end = data[4:6], _question_end(asked)
    if count == b"\0\0":
        return data[3] & 15 in _WITHOUT_QUESTION
    kinds = slice(end - 4, end)
    same = data[HEADER : end - 4].lower() == asked[HEADER : end - 4].lower() and data[kinds] == asked[kinds]
    return count == b"\0\1" and same


def question(query: Query) -> tuple[str, str] | dns.rcode.Rcode:
    """Return the name, without a trailing dot, and the type of a query.

    For a query that can't be answered, return the response code instead.
    """
    asked = query.question[0]
    if asked.rdclass != dns.rdataclass.IN:
        return dns.rcode.REFUSED
    return asked.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(asked.rdtype)


def complaint(data: bytes) -> bytes | None:
    """Return the reply to bytes that `parse` refuses: a header with their id.

    Return None if they have no id or are a response.
    """
    if len(data) < HEADER or data[2] & _RESPONSE:
        return None
    code = dns.rcode.NOTIMP if data[2] & _OPCODE else dns.rcode.FORMERR
    return data[:2] + bytes([_RESPONSE | data[2] & (_OPCODE | 1), code]) + bytes(8)


def renewed(query: Query) -> Query:
    """Return the query to forward: with a new id, and without the client's EDNS options."""
    asked, edns = query.question[0], query.edns >= 0
    return dns.message.make_query(
        asked.name,
        asked.rdtype,
        asked.rdclass,
        use_edns=edns,
        ednsflags=query.ednsflags & dns.flags.DO if edns else None,
        payload=max(query.payload, PLAIN) if edns else None,
        flags=query.flags & _FORWARDED_FLAGS,
    )


def refusal(query: Query, code: dns.rcode.Rcode, *, recursive: bool) -> bytes:
    """Return a reply without records."""
    return _reply(query, code, recursive=recursive).to_wire()


def reply(
    query: Query,
    answer: Answer,
    authority: Callable[[str], str],
    *,
    recursive: bool,
    over_udp: bool,
) -> bytes:
    """Return a reply from the directory. ``authority`` returns a zone's SOA record."""
    message = _reply(query, _RCODES[answer.verdict], recursive=recursive)
    asked = query.question[0]
    if answer.verdict is not DnsStatus.FOREIGN:
        message.flags |= dns.flags.AA
    kinds = dict.fromkeys(record.kind for record in answer.records)
    for kind in kinds:
        texts = [record.text for record in answer.records if record.kind == kind]
        message.answer.append(dns.rrset.from_text(asked.name, TTL, "IN", kind, *texts))
    if answer.zone and not kinds:
        soa = dns.rrset.from_text(answer.zone + ".", TTL, "IN", "SOA", authority(answer.zone))
        (message.answer if answer.verdict is DnsStatus.FOUND else message.authority).append(soa)
    if not over_udp:
        return message.to_wire(want_shuffle=False)  # the order has a meaning
    room = min(max(query.payload, PLAIN), PAYLOAD) if query.edns >= 0 else PLAIN
    try:
        return message.to_wire(max_size=room, want_shuffle=False)
    except dns.exception.TooBig:
        short = _reply(query, _RCODES[answer.verdict], recursive=recursive)
        short.flags |= dns.flags.TC
        return short.to_wire()


def _reply(query: Query, code: dns.rcode.Rcode, *, recursive: bool) -> dns.message.Message:
    message = dns.message.make_response(query, recursion_available=recursive, our_payload=PAYLOAD)
    message.set_rcode(dns.rcode.BADVERS if query.edns > 0 else code)
    return message
