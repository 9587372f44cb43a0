"""Fair shares of a fixed number of places: connections, streams, pending questions.

Places are counted by source, not by address. This machine is one source, and so is each proxy that
the operator trusts. A member is one source with all of its tunnel addresses, and two members are
always two sources. Any other source is an IPv4 address, or an IPv6 /64, since one machine has all
of a /64.

    a newcomer finds                             result
    its source at its limit                      refused
    a free place, reserved for its kind or not   it has the place
    none free, and a stale place of a source     that place is displaced; the richest such source
                                                 loses it
    none free, and a source with two more than   the newest place of the richest source is displaced
    its own
    none of these                                refused

So n sources that all want places get about an n-th each, however many places one of them asks for.
A place is loose until `Places.firm` marks it as in use, and stale after `Shares.stale` seconds of
that. Places reserved for a kind are never displaced by another kind. A source at its limit may
still replace a stale place of its own.
"""

import ipaddress
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.addresses import IPAddress, parse_ip, unmapped

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_H = TypeVar("_H")


class Kind(Enum):
    """The kinds of sources; places are reserved by kind."""

    OURS = "ours"
    """This machine, and the proxies that the operator trusts."""
    MEMBER = "member"
    STRANGER = "stranger"


class Source(NamedTuple):
    """One source of requests, with all of its addresses."""

    kind: Kind
    name: str


THIS_MACHINE: Final = Source(Kind.OURS, "this machine")
NOWHERE: Final = Source(Kind.STRANGER, "?")
"""The source of a connection without an IP address."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The mapping from addresses to sources."""

    members: AddressPlan | None = None
    """The tunnel addresses; None: members are not recognized."""
    trusted: tuple[Network, ...] = ()
    """The proxies that the operator trusts."""

    def of(self, there: str | IPAddress | None, here: str | IPAddress | None = None) -> Source:
        """Return the source at the far end of a connection; ``here`` is the address of our end.

        The same address at both ends is this machine: the kernel drops such packets from outside.
        """
        address, own = _parsed(there), _parsed(here)
        if address is None:
            return NOWHERE
        if address.is_loopback or address == own:
            return THIS_MACHINE
        if any(address in network for network in self.trusted if network.version == address.version):
            return Source(Kind.OURS, str(address))
        token = None if self.members is None else self.members.token_at(str(address))
        if token is not None:
            return Source(Kind.MEMBER, f"token {token}")
        return Source(Kind.STRANGER, _block(address))


@lru_cache(maxsize=1 << 12)
def _parsed(address: str | IPAddress | None) -> IPAddress | None:
    """Return an address, with an IPv4-mapped one as IPv4; None if it is not an address."""
    found = parse_ip(address.partition("%")[0]) if isinstance(address, str) else address
    return None if found is None else unmapped(found)


def _block(address: IPAddress) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


@dataclass(frozen=True, slots=True)
class Shares:
    """The number of places, and their division."""

    total: int
    each: int
    """The most for one source."""
    ours: int | None = None
    """The most for this machine and for each trusted proxy; None: ``each``.

    They may need many.
    """
    reserved: Mapping[Kind, int] = field(default_factory=dict)
    """Places that sources of other kinds never get; together less than ``total``."""
    stale: float = 10.0
    """Seconds after which a loose place is stale."""

    def most(self, source: Source) -> int:
        """Return the number of places that a source may hold."""
        return self.each if self.ours is None or source.kind is not Kind.OURS else self.ours


@dataclass(frozen=True, slots=True)
class Taken(Generic[_H]):
    """A place was given to a newcomer."""

    displaced: _H | None
    """The holder that lost its place for it, and has to be ended."""


class Places(Generic[_H]):
    """The places and their holders. A holder is any hashable object.

    A refusal takes constant time, because a flood consists of refusals. The oldest loose place of
    each kind, and the most places that one source of it holds, are therefore kept up to date.
    """

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.refused = 0
        self._sources: dict[_H, Source] = {}
        self._held: dict[Source, dict[_H, float | None]] = {}
        """By holder: the monotonic time since which its place is loose, ascending; None: firm."""
        self._loose: dict[Kind, dict[_H, float]] = {kind: {} for kind in Kind}
        """The same for all loose places of a kind."""
        self._used: Counter[Kind] = Counter()
        self._levels: dict[Kind, Counter[int]] = {kind: Counter() for kind in Kind}
        """By kind and number of places: the sources that hold that number."""
        self._top: Counter[Kind] = Counter()
        """By kind: the most places that one source holds."""

    def __len__(self) -> int:
        return len(self._sources)

    def held(self, source: Source) -> int:
        """Return the number of places that a source holds."""
        return len(self._held.get(source, ()))

    def take(self, source: Source, holder: _H, now: float) -> Taken[_H] | None:
        """Give a newcomer a place, or return None to refuse; ``now`` in monotonic seconds."""
        victim: _H | None = None
        if self.held(source) >= self.shares.most(source):
            victim = self._stale(source, now - self.shares.stale)
        elif self._has_room(source.kind):
            self._enter(source, holder, now)
            return Taken(None)
        else:
            victim = self._of_others(source, now - self.shares.stale)
        if victim is None:
            self.refused += 1
            return None
        self.leave(victim)
        self._enter(source, holder, now)
        return Taken(victim)

    def leave(self, holder: _H) -> bool:
        """Give a place back; returns False if the holder does not have one (any more)."""
        source = self._sources.pop(holder, None)
        if source is None:
            return False
        held = self._held[source]
        self._count(source.kind, len(held), len(held) - 1)
        self._used[source.kind] -= 1
        self._loose[source.kind].pop(holder, None)
        del held[holder]
        if not held:
            del self._held[source]
        return True

    def firm(self, holder: _H) -> None:
        """Mark a holder's place as in use."""
        if (source := self._sources.get(holder)) is not None:
            self._held[source][holder] = None
            self._loose[source.kind].pop(holder, None)

    def loosen(self, holder: _H, now: float) -> None:
        """Mark a holder's place as not in use from ``now`` on."""
        if (source := self._sources.get(holder)) is not None:
            del self._held[source][holder]
            self._loose[source.kind].pop(holder, None)
            self._put(source, holder, now)

    def _enter(self, source: Source, holder: _H, now: float) -> None:
        self._sources[holder] = source
        held = self._held.setdefault(source, {})
        self._count(source.kind, len(held), len(held) + 1)
        self._used[source.kind] += 1
        self._put(source, holder, now)

    def _put(self, source: Source, holder: _H, now: float) -> None:
        self._held[source][holder] = self._loose[source.kind][holder] = now

    def _count(self, kind: Kind, before: int, after: int) -> None:
        levels = self._levels[kind]
        levels[before] -= 1
        levels[after] += 1
        if after > self._top[kind] or (before == self._top[kind] and not levels[before]):
            self._top[kind] = after

    def _has_room(self, kind: Kind) -> bool:
        reserved = self.shares.reserved
        taken = sum(max(self._used[each], reserved.get(each, 0)) for each in Kind)
        return self._used[kind] < reserved.get(kind, 0) or taken < self.shares.total

    def _of_others(self, source: Source, before: float) -> _H | None:
        """Return the holder to displace: a stale one, or the newest of a source with two more."""
        reserved = self.shares.reserved
        kinds = [k for k in Kind if k is source.kind or self._used[k] > reserved.get(k, 0)]
        if any(next(iter(self._loose[kind].values()), math.inf) <= before for kind in kinds):
            stale = (self._stale(rival, before) for rival in self._richest_first(kinds))
            return next((holder for holder in stale if holder is not None), None)
        if max(self._top[kind] for kind in kinds) < self.held(source) + 2:
            return None
        held = self._held[self._richest_first(kinds)[0]]
        newest = list(reversed(held))
        return next((holder for holder in newest if held[holder] is not None), newest[0])

    def _richest_first(self, kinds: Collection[Kind]) -> list[Source]:
        return sorted((s for s in self._held if s.kind in kinds), key=self.held, reverse=True)

    def _stale(self, source: Source, before: float) -> _H | None:
        """Return the holder of a source's oldest loose place, if it is stale."""
        loose = ((h, since) for h, since in self._held.get(source, {}).items() if since is not None)
        holder, since = next(loose, (None, math.inf))
        return holder if since <= before else None
