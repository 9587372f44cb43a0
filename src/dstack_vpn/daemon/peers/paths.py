"""The present path to each peer: UDP or relays. `daemon.peers.path_keeper` changes it.

The membership gets a peer's address from `where`. A peer's relay is made when it is first needed,
listens on a loopback port, and ends after some time on UDP.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.selector import Path, PathSelector, TransportMode, usable
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.endpoints import EndpointBook
from dstack_vpn.ports import PeerRelay

ASK: Final = 30.0
"""Seconds between checks that the system can send UDP to a peer without a session."""
COUNTED: Final = ("datagrams_up", "datagrams_down", "bytes_up", "bytes_down", "reconnects", "stalls")
"""The relay counters that are summed."""


@dataclass(slots=True, eq=False)
class PeerPath:
    """The path to one peer that has relays."""

    peer_endpoint: PeerEndpoint
    selector: PathSelector | None
    """None: the peer has only relays."""
    relay: PeerRelay | None = field(default=None, init=False)
    last_source: SocketAddress | None = field(default=None, init=False)
    """The UDP address of its last packets."""
    _running: "asyncio.Task[None] | None" = field(default=None, init=False)
    _problem: str | None = field(default=None, init=False)
    """The reason that it has no relay."""
    _ask_at: float = field(default=0.0, init=False)
    """The time of the next check that UDP can be sent (monotonic seconds)."""

    @property
    def way(self) -> Path:
        """The path in use."""
        return Path.RELAY if self.selector is None else self.selector.way

    def change(self, allowed: PeerEndpoint) -> None:
        """Replace the peer's endpoints."""
        if self.selector is not None and self.peer_endpoint.udp != allowed.udp:
            self.selector.probe_soon()
        self.peer_endpoint = allowed
        if self.relay is not None:
            self.relay.retarget(allowed.relays)

    def begin(self, relay: PeerRelay, running: "asyncio.Task[None]") -> None:
        """Use a relay from now on."""
        self.relay, self._running = relay, running

    def fails(self, problem: str) -> bool:
        """Record the reason that there is no relay; return whether it is new."""
        changed, self._problem = problem != self._problem, problem
        return changed

    def end(self) -> Counter[str]:
        """End the relay, if there is one; return its counters."""
        counted = Counter[str]() if self.relay is None else counters(self.relay.snapshot())
        if self._running is not None:
            self._running.cancel()
        self.relay = self._running = None
        return counted

    def received(self, at: SocketAddress | None) -> None:
        """Record the UDP address from which the peer answers."""
        self.last_source = at

    def asks(self, now: float) -> bool:
        """Return whether a check that UDP can be sent is due."""
        return now >= self._ask_at

    def goes_out(self, now: float) -> None:
        """Record that the system can send UDP to it."""
        self._ask_at = now + ASK


@dataclass(slots=True)
class Paths:
    """The paths to all peers that have relays; the others are reached by UDP."""

    transport: TransportMode
    names: EndpointBook
    peers: dict[PublicKey, PeerPath] = field(default_factory=dict, init=False)
    work: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when a relay has to be made or ended."""
    _gone: list[PeerPath] = field(default_factory=list, init=False)
    _past: Counter[str] = field(default_factory=Counter, init=False)
    """The counters of relays that have ended."""

    def where(self, key: PublicKey, peer_endpoint: PeerEndpoint) -> SocketAddress | None:
        """Return the address for a peer's packets, or None if unknown. Implements `Lookup`."""
        allowed = usable(peer_endpoint, self.transport)
        if not allowed.relays:
            self.forget(key)
            return self.names.by_udp(key, allowed)
        peer = self.peers.get(key)
        if peer is None or (peer.peer_endpoint.udp is None) != (allowed.udp is None):
            self.forget(key)
            peer = self.peers[key] = PeerPath(allowed, None if allowed.udp is None else PathSelector())
        elif peer.peer_endpoint != allowed:
            peer.change(allowed)
        if peer.way is Path.UDP:
            return self.names.by_udp(key, allowed)
        if peer.relay is None:
            self.work.set()
        return None if peer.relay is None else peer.relay.address

    def proven(self) -> set[PublicKey]:
        """Return the peers whose path is proven by their answers: data may be sent there at once.

        A relay has accepted our connection, and a relay without answers is left within seconds.
        """
        return {key for key, peer in self.peers.items() if self.is_proven(key, peer)}

    def is_proven(self, key: PublicKey, peer: PeerPath) -> bool:
        """Return whether one peer's path is proven; see `proven`."""
        selector = peer.selector
        if selector is None or selector.way is Path.RELAY:
            return selector is not None
        return selector.proven and peer.last_source == self.names.by_udp(key, peer.peer_endpoint)

    def problems(self) -> dict[str, str]:
        """Return the peers whose relays do not work, with the reasons."""
        relays = {key: peer.relay for key, peer in self.peers.items() if peer.way is Path.RELAY}
        found = {key: relay.problem for key, relay in relays.items() if relay is not None}
        return {str(key): problem for key, problem in found.items() if problem}

    def describe(self, key: PublicKey) -> dict[str, Any]:
        """Return a peer's transport and relay as JSON values."""
        peer = self.peers.get(key)
        if peer is None or peer.way is Path.UDP or peer.relay is None:
            return {
                "transport": None if peer is not None and peer.way is Path.RELAY else "udp",
                "relay": None,
            }
        seen = peer.relay.snapshot()
        upstream = seen["upstream"]
        return {"transport": None if upstream is None else upstream.partition(":")[0], "relay": seen}

    def describe_all(self) -> dict[PublicKey, dict[str, Any]]:
        """Return the same for every peer that has relays."""
        return {key: self.describe(key) for key in self.peers}

    def carried(self, described: Mapping[PublicKey, Mapping[str, Any]]) -> Counter[str]:
        """Return the counters of all relays to peers since the start, ended relays included."""
        found = Counter(self._past)
        for key, peer in self.peers.items():
            if peer.relay is not None:
                # A relay that is not in use any more, but has not ended yet, is not described.
                found.update(counters(described[key]["relay"] or peer.relay.snapshot()))
        return found

    def keep(self, keys: Collection[PublicKey]) -> None:
        """Forget all other peers."""
        for key in self.peers.keys() - set(keys):
            self.forget(key)

    def forget(self, key: PublicKey) -> None:
        """Forget a peer; its relay ends soon."""
        peer = self.peers.pop(key, None)
        if peer is not None and peer.relay is not None:
            self._gone.append(peer)
            self.work.set()

    def end_forgotten(self) -> None:
        """End the relays of peers that were forgotten."""
        while self._gone:
            self.end_relay(self._gone.pop())

    def end_relay(self, peer: PeerPath) -> None:
        """End a peer's relay, and keep its counters."""
        self._past.update(peer.end())


def counters(seen: Mapping[str, Any]) -> Counter[str]:
    """Return a relay's counters, each drop under its reason."""
    drops = {f"dropped {reason}": count for reason, count in seen.get("drops", {}).items()}
    return Counter({name: seen.get(name, 0) for name in COUNTED} | drops)
