"""Detection of peers that do not answer: bytes are sent to them, and none are received.

WireGuard answers data within KEEPALIVE_TIMEOUT (10 s) and a handshake initiation at once, so a peer
that is sent either and is silent for `ANSWER_TO_DATA` is unreachable. A keepalive asks for no
answer. A peer that is sent nothing is not judged.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dstack_vpn.core.model import PeerState
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import ANSWER_TO_DATA, asks_for_answer


@dataclass(slots=True)
class Answers:
    """The outstanding answers of each peer, by the device's byte counters.

    Times are monotonic seconds.
    """

    overdue: dict[PublicKey, float] = field(default_factory=dict)
    """The peers that do not answer, and the time since which an answer is outstanding."""
    _counters: dict[PublicKey, tuple[int, int]] = field(default_factory=dict)
    """Bytes sent and received at the last comparison."""
    _owing: dict[PublicKey, float] = field(default_factory=dict)

    def look(
        self, now: float, peers: Iterable[tuple[PublicKey, PeerState]]
    ) -> tuple[list[PublicKey], list[PublicKey]]:
        """Compare byte counters.

        Returns the peers that stopped answering, and those that answer again.
        """
        silent: list[PublicKey] = []
        back: list[PublicKey] = []
        for key, peer in peers:
            before = self._counters.get(key)
            self._counters[key] = peer.tx_bytes, peer.rx_bytes
            if before is None:
                continue
            sent, received = peer.tx_bytes - before[0], peer.rx_bytes - before[1]
            if received or sent < 0:
                # It answered, or its counters restarted because the peer was set again.
                self._owing.pop(key, None)
                if self.overdue.pop(key, None) is not None and received > 0:
                    back.append(key)
            elif asks_for_answer(sent):
                since = self._owing.setdefault(key, now)
                if now - since >= ANSWER_TO_DATA and key not in self.overdue:
                    self.overdue[key] = since
                    silent.append(key)
        return silent, back

    def keep(self, keys: Iterable[PublicKey]) -> None:
        """Forget all peers except these."""
        kept = set(keys)
        for of_peers in (self.overdue, self._counters, self._owing):
            for key in of_peers.keys() - kept:
                del of_peers[key]
