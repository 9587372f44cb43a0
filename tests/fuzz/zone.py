"""DNS queries to the DNS server's own code, for a small network."""

import ipaddress
from typing import Final

import dns.message
import dns.rcode
from tests.scripted import key

from dstack_vpn.adapters.dns import messages
from dstack_vpn.adapters.dns.server import DnsServer
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.names import Answer, Names

OWNER: Final = "0x" + "ab" * 20
PLAN: Final = AddressPlan(ipaddress.IPv4Network("10.77.0.0/20"), unique_local_prefix(1, OWNER))
_NODES: Final = (
    Node(1, OWNER, "own", key(1)),
    Node(2, OWNER, "web-1", key(2)),
    Node(3, OWNER, "a.b.c", key(3)),
    Node(4, OWNER, "WEB-1", key(4)),
    Node(5, OWNER, "gone", key(5), active=False),
    Node(5000, OWNER, "x" * 63, key(6)),
)
_ACCESS: Final = AccessControl(Registry.of(_NODES), PLAN, key(1), height=100)


class Zone:
    """Implements `adapters.dns.server.Directory`."""

    def __init__(self) -> None:
        self.names = Names("vpn.internal", PLAN, "own")

    def answer(self, name: str, kind: str) -> Answer:
        return self.names.answer(name, kind, _ACCESS, 1000.0)

    def authority(self, zone: str) -> str:
        return self.names.start_of_authority(zone, 2**33)

    def addresses(self) -> frozenset[str]:
        return frozenset()

    def is_member_address(self, host: str) -> bool:
        return False


_ASKED: Final = dns.message.make_query("example.org", "ANY", id=7, want_dnssec=True).to_wire()
_SERVER: Final = DnsServer(Zone(), 53)


def question(data: bytes) -> object:
    """Reply over UDP and TCP; None if the input is not a query."""
    decoded: object = None
    for over_udp in (True, False):
        answer = _SERVER.respond(data, over_udp=over_udp)
        if not isinstance(answer, bytes):
            return None
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        assert not over_udp or len(answer) <= messages.PAYLOAD
        if len(answer) == messages.HEADER:
            return None
        decoded = dns.message.from_wire(answer)
    return decoded


def elsewhere(data: bytes) -> object:
    """Check a message from the queried server; None if it is not a reply to the query."""
    return True if messages.answers(_ASKED, data) else None


def foreign(data: bytes) -> object:
    """Prepare a query for another server, and the reply if that server fails."""
    query = messages.parse(data)
    if not isinstance(messages.question(query), tuple):
        return None  # the server refuses it
    sent = messages.renewed(query)
    assert sent.id != query.id or sent is not query
    failed = messages.refusal(query, dns.rcode.SERVFAIL, recursive=True)
    assert failed[:2] == data[:2]
    return sent.to_wire()
