"""Changes of a peer's endpoint on the device: a member's new address gets no data until it answers.

WireGuard sends a session's data to the peer's endpoint without a check. A member that receives a
stream could therefore redirect it to a third party. The rules against that are:

* while a peer has a session and answers, its endpoint stays (`Move.WAIT`). A peer that has really
  moved sends from its new address, and WireGuard follows it there;
* if it has stopped answering, it is set again at the new address without its session
  (`Move.RESET`). Until a handshake completes there, WireGuard sends only handshake initiations;
* without a session no data could be misdirected: the endpoint is set (`Move.SET`);
* an address at which the peer has just answered (`Evidence.proven`) is set as well, such as on the
  way back from a relay.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

from dstack_vpn.core.model import Peer, PeerState, SocketAddress
from dstack_vpn.core.paths.destination import Destinations, IPNetwork
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import SESSION_LIFE


class Move(Enum):
    """The action on a peer's endpoint."""

    STAY = auto()
    """It is as desired, or the peer has roamed, which is left to the peer."""
    WAIT = auto()
    """The new one waits until the peer stops answering at the old one."""
    SET = auto()
    RESET = auto()
    """It is set, and the peer starts without a session."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The known facts about the peers' answers."""

    now: float
    """Unix seconds, like the device's handshake times."""
    silent: Collection[PublicKey] = frozenset()
    """Peers that were sent data and have sent nothing since (`core.access.answers`)."""
    proven: Collection[PublicKey] = frozenset()
    """Peers whose desired endpoint was chosen by their answers (`core.paths.selector`)."""
    destinations: Destinations = field(default_factory=Destinations)


def move(before: PeerState, peer: Peer, sent: SocketAddress | None, evidence: Evidence) -> Move:
    """Decide about a peer on the device; ``sent`` is the endpoint last sent to the device."""
    if strays(before, evidence.destinations):
        return Move.RESET
    wish, here = peer.endpoint, before.endpoint
    if wish is None or wish == here:
        return Move.STAY
    if here is None or evidence.now - before.last_handshake > SESSION_LIFE:
        return Move.SET
    if sent is None and here.is_loopback:
        return Move.RESET  # a relay of the previous process, which has ended with it
    if sent is None or sent == wish:
        return Move.STAY
    if peer.public_key in evidence.proven:
        return Move.SET
    # A relay that is not used any more does not lead to the peer, so do not wait.
    gone = here.is_loopback or peer.public_key in evidence.silent
    return Move.RESET if gone else Move.WAIT


def strays(state: PeerState, destinations: Destinations) -> bool:
    """Return whether WireGuard has followed a peer into the tunnel.

    Its packets would be encrypted again, in a loop.
    """
    return state.endpoint is not None and _is_inside(state.endpoint.host, destinations.inside)


@lru_cache(maxsize=1 << 15)
def _is_inside(host: str, inside: tuple[IPNetwork, ...]) -> bool:
    return Destinations(inside, local=True).refusal(host) is not None
