"""The members and networks that a policy is about, by their addresses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.model import Address, TokenId
from dstack_vpn.core.paths.destination import IPNetwork
from dstack_vpn.core.policy.networks import OwnNetworks, is_public
from dstack_vpn.core.policy.selectors import Selector, SelectorKind


@dataclass(frozen=True, slots=True)
class Member:
    """A member with access."""

    token: TokenId
    node_id: str | None
    """None if the chain's text is malformed."""
    owner: Address
    tags: frozenset[str]
    addresses: frozenset[IPAddress]
    routes: tuple[IPNetwork, ...] = ()
    """The networks behind it."""

    def matches(self, selector: Selector) -> bool:
        """Return whether a selector names this member."""
        match selector.kind:
            case SelectorKind.ANY:
                return True
            case SelectorKind.TAG:
                return selector.value in self.tags
            case SelectorKind.NODE:
                return selector.value == self.node_id
            case SelectorKind.OWNER:
                return selector.value == self.owner
            case _:
                return False

    def __str__(self) -> str:
        return self.node_id or f"token {self.token}"


@dataclass(frozen=True, slots=True)
class Place:
    """An address, and its owner: a member, a network behind one, the internet, or nothing."""

    address: IPAddress
    member: Member | None = None
    routed: bool = False
    """True within a network behind a member that its gateway can use, except a default route."""
    internet: bool = False

    @property
    def is_known(self) -> bool:
        """True if a policy can be about the address."""
        return self.member is not None or self.routed or self.internet

    def matches(self, selector: Selector, source: "Place | None" = None) -> bool:
        """Return whether a selector includes the address.

        ``source`` is given for a destination: `SelectorKind.SELF` depends on it.
        """
        match selector.kind:
            case SelectorKind.SELF:
                holders = self.member, None if source is None else source.member
                return None not in holders and len({each.owner for each in holders if each}) == 1
            case SelectorKind.INTERNET:
                return self.internet
            case SelectorKind.NETWORK:
                return self.routed and self.address in selector.network
            case SelectorKind.ANY if self.member is None:
                return self.routed
            case _:
                return self.member is not None and self.member.matches(selector)

    def __str__(self) -> str:
        return str(self.address if self.member is None else self.member)


@dataclass(frozen=True, slots=True)
class MemberDirectory:
    """All members with access; built with `of`."""

    members: tuple[Member, ...]
    prefixes: tuple[IPNetwork, ...]
    """The tunnel prefixes."""
    _by_address: Mapping[IPAddress, Member] = field(repr=False)
    _routes: tuple[IPNetwork, ...] = field(repr=False)
    _has_exit: frozenset[int] = field(repr=False)
    """The IP versions for which a member has the default route."""

    @classmethod
    def of(cls, members: Iterable[Member], prefixes: Iterable[IPNetwork]) -> "MemberDirectory":
        """Return the directory of exactly these members."""
        everyone, inside = tuple(members), tuple(prefixes)
        held = {str(route) for member in everyone for route in member.routes}
        routes = tuple(map(ip_network, OwnNetworks.of(held, inside).usable))
        return cls(
            everyone,
            inside,
            {address: member for member in everyone for address in member.addresses},
            tuple(route for route in routes if route.prefixlen),
            frozenset(route.version for route in routes if not route.prefixlen),
        )

    def place(self, address: IPAddress) -> Place:
        """Look up an address. A tunnel address belongs to a member or to nothing."""
        if any(address in prefix for prefix in self.prefixes):
            return Place(address, self._by_address.get(address))
        if any(address in route for route in self._routes):
            return Place(address, routed=True)
        return Place(address, internet=address.version in self._has_exit and is_public(address))

    def named(self, selector: Selector) -> tuple[Member, ...]:
        """Return the members that a selector names."""
        return tuple(member for member in self.members if member.matches(selector))
