"""When a peer's endpoint on the device changes: an address that a member wrote gets no data until it answers.

WireGuard sends a session's data to the peer's endpoint, whatever is there. A member to which a stream runs
could have that stream sent to a third party. Therefore:

* while a peer has a session and answers, it stays where it is (`Move.WAIT`). One that has really moved sends
  from its new address, and WireGuard follows it there;
* if it has stopped answering, it is set again at the new address without its session (`Move.RESET`). Until a
  handshake is answered there, WireGuard sends nothing but initiations;
* without a session there is no data that could go astray: the endpoint is simply set (`Move.SET`);
* so is an address at which the peer has just answered (`Evidence.proven`), as on the way back from a relay.
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
    """What becomes of a peer's endpoint."""

    STAY = auto()
    """It is where it should be, or has roamed, which is the peer's own business."""
    WAIT = auto()
    """The new one waits until the peer stops answering at the old one."""
    SET = auto()
    RESET = auto()
    """It is set, and the peer begins without a session."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the peers' answers."""

    now: float
    """Unix seconds, like the device's handshake times."""
    silent: Collection[PublicKey] = frozenset()
    """Peers that data went to, and from whom nothing has come since (`core.access.answers`)."""
    proven: Collection[PublicKey] = frozenset()
    """Peers whose desired endpoint was chosen by what they answer to (`core.paths.selector`)."""
    destinations: Destinations = field(default_factory=Destinations)


def move(before: PeerState, peer: Peer, sent: SocketAddress | None, evidence: Evidence) -> Move:
    """Decide about a peer that the device has; ``sent`` is the endpoint that was sent to the device last."""
    if strays(before, evidence.destinations):
        return Move.RESET
    wish, here = peer.endpoint, before.endpoint
    if wish is None or wish == here:
        return Move.STAY
    if here is None or evidence.now - before.last_handshake > SESSION_LIFE:
        return Move.SET
    if sent is None and here.is_loopback:
        return Move.RESET  # a relay of the process before us, which has ended with it
    if sent is None or sent == wish:
        return Move.STAY
    if peer.public_key in evidence.proven:
        return Move.SET
    # A relay that is left no longer leads to the peer: there is nothing to wait for.
    gone = here.is_loopback or peer.public_key in evidence.silent
    return Move.RESET if gone else Move.WAIT


def strays(state: PeerState, destinations: Destinations) -> bool:
    """Whether WireGuard has followed a peer into the tunnel, where its packets are encrypted without end."""
    return state.endpoint is not None and _is_inside(state.endpoint.host, destinations.inside)


@lru_cache(maxsize=1 << 15)
def _is_inside(host: str, inside: tuple[IPNetwork, ...]) -> bool:
    return Destinations(inside, local=True).refusal(host) is not None
