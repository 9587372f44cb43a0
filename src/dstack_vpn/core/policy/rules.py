"""The rules of this node: what each member may send to it, as a packet filter can enforce it.

Members with the same rights here share a group. Therefore a change of one member's tags moves two
addresses, and a change of the policy changes the rights of groups, independent of the number of
members.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from dstack_vpn.core.policy.selectors import Ports, Protocol

GroupName: TypeAlias = str
"""Lower-case letters and digits."""


ViewName: TypeAlias = str
"""Lower-case letters and digits."""


class GrantId(NamedTuple):
    """A grant of a policy."""

    policy: str
    """The first 8 digits of the policy's hash, or ``file`` for POLICY_FILE."""
    number: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.policy}_{self.number}"


class PortRight(NamedTuple):
    """Ports that a grant opens. The port rights of one direction do not overlap."""

    protocol: Protocol | None
    """None: every IP protocol, also TCP, UDP and ICMP."""
    first: int
    last: int
    """Inclusive. 0 and 65535 for ICMP and for every protocol."""
    grant: GrantId
    """The first grant that opens them."""

    @property
    def ports(self) -> Ports:
        """The protocol and the ports."""
        return Ports(self.protocol, self.first, self.last)


@dataclass(frozen=True, slots=True)
class GroupRights:
    """The rights between this node and each member of a group."""

    inbound: tuple[PortRight, ...] = ()
    """To this node, by its ports."""
    outbound: tuple[PortRight, ...] = ()
    """From this node, by the members' ports. Their replies come in under these rights."""

    def __bool__(self) -> bool:
        return bool(self.inbound or self.outbound)


class Addresses(NamedTuple):
    """The tunnel addresses of a group's members."""

    ipv4: frozenset[str]
    ipv6: frozenset[str]


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """All packets from members that a node accepts.

    A group that no change concerns keeps its objects: comparisons are quick with many members.
    """

    addresses: frozenset[str]
    """This node's tunnel addresses. Packets to others are refused."""
    members: Mapping[GroupName, Addresses]
    """Each tunnel address is in one group at most. Packets from others are refused."""
    groups: Mapping[GroupName, GroupRights]
    views: Mapping[ViewName, "PolicyRules"] = field(default_factory=dict)
    """The packets that this node forwards to its plain clients, by groups of clients.

    The addresses of a view are those of its clients, and the names of its groups are its own. A
    packet from a client to another member is forwarded, because the receiver enforces the policy.
    """
    networks: Mapping[ViewName, "PolicyRules"] = field(default_factory=dict)
    """The packets that this node forwards to the networks behind it, by zones of destinations.

    The addresses of a zone are networks, and its groups have inbound rights only. Replies come
    under the same rights.
    """

    @property
    def size(self) -> int:
        """The number of members' addresses."""
        return sum(len(each.ipv4) + len(each.ipv6) for each in self.members.values())

    def rights_of(self, address: str) -> GroupRights:
        """Return the rights of the member with a tunnel address; empty without any."""
        for name, each in self.members.items():
            if address in each.ipv4 or address in each.ipv6:
                return self.groups[name]
        return GroupRights()


CLOSED = PolicyRules(frozenset(), {}, {})
"""Accepts nothing."""
