"""Arbitrary bytes get an answer, an error reply or no reply. Only FormatError is raised."""

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.adapters.dns import messages
from dstack_vpn.core.names import Answer, DnsRecord, DnsStatus
from dstack_vpn.errors import FormatError

VALID = dns.message.make_query("web.vpn.internal", "A", use_edns=0).to_wire()
headers = st.binary(min_size=12, max_size=12)
labels = st.lists(st.binary(max_size=70), max_size=6).map(
    lambda parts: b"".join(bytes([len(part) & 0xFF]) + part for part in parts)
)
bent = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6).map(
    lambda changes: bytes(dict(changes).get(place, byte) for place, byte in enumerate(VALID))
)
data = st.one_of(st.binary(max_size=600), st.builds(lambda h, b: h + b, headers, labels), bent)


def test_the_order_of_the_records_is_kept() -> None:
    records = tuple(DnsRecord("A", f"10.77.0.{number}") for number in (9, 3, 12, 7, 2, 30, 4, 8))
    query = messages.parse(VALID)
    for over_udp in (True, False):
        answer = Answer(DnsStatus.FOUND, "vpn.internal", records)
        wire = messages.reply(query, answer, lambda zone: zone, recursive=False, over_udp=over_udp)
        (shown,) = dns.message.from_wire(wire).answer
        assert [record.to_text() for record in shown] == [text for _, text in records]
        assert shown.ttl == 1


@settings(max_examples=2000)
@given(data, st.booleans())
def test_any_bytes_are_answered_within_bounds_or_refused(some: bytes, over_udp: bool) -> None:
    try:
        query = messages.parse(some)
    except FormatError:
        complaint = messages.complaint(some)
        assert complaint is None or (len(complaint) == 12 and complaint[:2] == some[:2])
        return
    asked = messages.question(query)
    if not isinstance(asked, tuple):
        assert messages.refusal(query, asked, recursive=False)[:2] == some[:2]
        return
    answer = Answer(DnsStatus.FOUND, "vpn.internal", (DnsRecord("A", "10.77.0.2"),))
    wire = messages.reply(query, answer, lambda zone: "a. b. 1 1 1 1 1", recursive=False, over_udp=over_udp)
    assert wire[:2] == some[:2]
    assert not over_udp or len(wire) <= messages.PAYLOAD
    assert dns.message.from_wire(wire).id == query.id
