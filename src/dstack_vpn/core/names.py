"""DNS names of the network's members, and of no other hosts.

    web-1.vpn.internal          A, AAAA   the node's tunnel addresses
                                TXT       its token and owner
    db.tag.vpn.internal         A, AAAA   the members that have the tag db, the nearest first
    nearest.db.tag.vpn.internal A, AAAA   the nearest of them alone
    2.0.77.10.in-addr.arpa      PTR       the node behind a tunnel address; the same under ip6.arpa
    vpn.internal                SOA, NS

Only nodes that are on the network now have names, including this one. DNS names are
case-insensitive: if two node ids differ only in case (the deployed contract allows that), the name
belongs to the one whose key was set first.

If the registry defines tags, all names below ``tag`` are names of tags. A node id such as
``db.tag`` has no name then: only the deployed contract allows it, which has no tags. A node ``tag``
keeps its name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId

ROLES: Final = "tag"
"""The label below which the names of tags are."""
NEAREST: Final = "nearest"
"""The label before a tag's name for the nearest member alone."""
_REVERSE: Final = {4: (".in-addr.arpa", 8, 4), 6: (".ip6.arpa", 4, 32)}
"""By IP version: the suffix of reverse names, bits per label, labels of a whole address.

RFC 1035 and RFC 3596.
"""


class DnsStatus(Enum):
    """The kind of an answer (RFC 1035, RFC 2308)."""

    FOUND = auto()
    NO_DATA = auto()
    """The name exists, but has no record of that type."""
    NO_NAME = auto()
    FOREIGN = auto()
    """A name outside our zones."""


class DnsRecord(NamedTuple):
    """A record in the format of a zone file, without its name and time to live."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question, without a trailing dot in any name."""

    verdict: DnsStatus
    zone: str = ""
    """The zone whose SOA record belongs to the answer."""
    records: tuple[DnsRecord, ...] = ()


class Roles(Protocol):
    """The members of each role."""

    @property
    def defined(self) -> bool:
        """Return whether the registry defines any tag."""

    def members(self, tag: str) -> Sequence[TokenId] | None:
        """Return the members with a tag, the nearest first; None if the tag is not defined."""


class NoRoles:
    """No tag is defined."""

    defined: Final = False

    def members(self, tag: str) -> Sequence[TokenId] | None:
        """See `Roles.members`."""
        return None


_NO_ROLES: Final = NoRoles()
_FOREIGN: Final = Answer(DnsStatus.FOREIGN)


@dataclass(slots=True)
class Names:
    """The DNS answers from the registry's current state."""

    suffix: str
    """The zone, in lower case and without a dot at either end."""
    addresses: AddressPlan
    own_node_id: str | None = None
    """The node that the zone's NS record names."""
    _of: Registry | None = field(default=None, init=False)
    """The registry from which the two indexes below were built."""
    _tokens: dict[str, list[TokenId]] = field(default_factory=dict, init=False)
    _inner: set[str] = field(default_factory=set, init=False)
    """Names that only have names below them: ``b`` of the node id ``a.b`` (RFC 8020)."""

    def answer(
        self, name: str, kind: str, access: AccessControl, now: float, roles: Roles = _NO_ROLES
    ) -> Answer:
        """Answer for a name without a trailing dot, and a record type; ``now`` in Unix seconds."""
        name = name.lower()
        if name == self.suffix:
            return self._apex(self.suffix, kind)
        if name.endswith("." + self.suffix):
            relative = name.removesuffix("." + self.suffix)
            if roles.defined and relative.endswith("." + ROLES):
                return self._role(relative.removesuffix("." + ROLES), kind, roles)
            answer = self._forward(relative, kind, access, now)
            inner = roles.defined and relative == ROLES and answer.verdict is DnsStatus.NO_NAME
            return Answer(DnsStatus.NO_DATA, self.suffix) if inner else answer
        for version, (end, _, _) in _REVERSE.items():
            if name.endswith(end):
                return self._reverse(name, version, kind, access, now)
        return _FOREIGN

    def start_of_authority(self, zone: str, serial: int) -> str:
        """Return the SOA record of one of our zones; ``serial`` modulo 2^32 (RFC 1982)."""
        return f"{self._server}. hostmaster.{self.suffix}. {serial % 2**32} 3600 600 86400 1"

    @property
    def _server(self) -> str:
        return self.suffix if self.own_node_id is None else f"{self.own_node_id.lower()}.{self.suffix}"

    def _apex(self, zone: str, kind: str) -> Answer:
        if kind == "NS":
            return Answer(DnsStatus.FOUND, zone, (DnsRecord("NS", f"{self._server}."),))
        if kind == "SOA":  # the server adds the record, with its serial
            return Answer(DnsStatus.FOUND, zone)
        return Answer(DnsStatus.NO_DATA, zone)

    def _forward(self, relative: str, kind: str, access: AccessControl, now: float) -> Answer:
        self._index(access.registry)
        node = self._member(self._tokens.get(relative, ()), access, now)
        if node is None:
            inner = relative in self._inner
            return Answer(DnsStatus.NO_DATA if inner else DnsStatus.NO_NAME, self.suffix)
        records = self._addresses(node.token_id)
        records.append(DnsRecord("TXT", f'"token={node.token_id}" "owner={node.owner}"'))
        return _of_kind(kind, records, self.suffix)

    def _role(self, relative: str, kind: str, roles: Roles) -> Answer:
        first, _, tag = relative.rpartition(".")
        members = roles.members(tag) if first in {"", NEAREST} else None
        if members is None:
            return Answer(DnsStatus.NO_NAME, self.suffix)
        chosen = members[:1] if first else members
        return _of_kind(kind, [each for token in chosen for each in self._addresses(token)], self.suffix)

    def _addresses(self, token: TokenId) -> list[DnsRecord]:
        ipv4, ipv6 = self.addresses.ipv4_of(token), self.addresses.ipv6_of(token)
        records = [DnsRecord("A", str(ipv4))] if ipv4 else []
        return [*records, DnsRecord("AAAA", str(ipv6))] if ipv6 else records

    def _reverse(self, name: str, version: int, kind: str, access: AccessControl, now: float) -> Answer:
        end, bits, labels = _REVERSE[version]
        network = self.addresses.ipv4 if version == 4 else self.addresses.ipv6
        parts = name.removesuffix(end).split(".")
        # Labels of the zone's apex. If the range ends within a label, each part is its own zone.
        depth = -(-network.prefixlen // bits)
        number = _number(parts, version)
        if number is None or not depth <= len(parts) <= labels:
            return _FOREIGN
        address = type(network.network_address)(number << bits * (labels - len(parts)))
        if address not in network:
            return _FOREIGN
        zone = ".".join(parts[len(parts) - depth :]) + end
        if len(parts) < labels:
            return self._apex(zone, kind) if len(parts) == depth else Answer(DnsStatus.NO_DATA, zone)
        token = self.addresses.token_at(str(address))
        node = None if token is None else self._member([token], access, now)
        if node is None:
            return Answer(DnsStatus.NO_NAME, zone)
        return _of_kind(kind, [DnsRecord("PTR", f"{str(node.node_id).lower()}.{self.suffix}.")], zone)

    def _member(self, tokens: Iterable[TokenId], access: AccessControl, now: float) -> Node | None:
        """Return the node among these that is on the network: the one whose key was set first."""
        decisions = (access.decide(token, now) for token in tokens)
        members = [d.node for d in decisions if d.node and (d.granted or d.reason is Reason.OWN_KEY)]
        return min(members, key=lambda node: (node.key_since, node.token_id), default=None)

    def _index(self, registry: Registry) -> None:
        if self._of is registry:
            return
        tokens: dict[str, list[TokenId]] = {}
        inner: set[str] = set()
        for node_id, found in registry.by_node_id.items():
            labels = node_id.lower().split(".")
            tokens.setdefault(".".join(labels), []).extend(found)
            inner.update(".".join(labels[depth:]) for depth in range(1, len(labels)))
        self._of, self._tokens, self._inner = registry, tokens, inner


def _of_kind(kind: str, records: list[DnsRecord], zone: str) -> Answer:
    chosen = tuple(record for record in records if kind in {record.kind, "ANY"})
    return Answer(DnsStatus.FOUND if chosen else DnsStatus.NO_DATA, zone, chosen)


def _number(labels: list[str], version: int) -> int | None:
    """Return a reverse name's labels as the leading bits of an address; None if malformed."""
    number = 0
    for label in reversed(labels):
        if version == 4:
            value = int(label) if label.isascii() and label.isdigit() and len(label) <= 3 else 256
            if value > 255 or str(value) != label:
                return None
            number = number << 8 | value
        else:
            if len(label) != 1 or label not in "0123456789abcdef":
                return None
            number = number << 4 | int(label, 16)
    return number
