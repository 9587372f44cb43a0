"""Detection of overdue answers from WireGuard's message sizes and times, without keys.

WireGuard answers a handshake initiation at once, and data within KEEPALIVE_TIMEOUT, 10 s
(whitepaper, section 6). If neither answer arrives, the path is broken, even if its TCP connection
works.
"""

from dataclasses import dataclass
from typing import Final

INITIATION_SIZE: Final = 148
"""Bytes of a handshake initiation (section 5.4.2).

Data messages are a multiple of 16, so no other message has this size.
"""
INITIATION: Final = 1
"""The first byte of a handshake initiation."""
KEEPALIVE_SIZE: Final = 32
"""Bytes of a keepalive, which is data of length 0 (section 5.4.6).

The smallest packet makes a message of 64 bytes.
"""
SESSION_LIFE: Final = 180.0
"""Seconds after a handshake until its session is refused (REJECT_AFTER_TIME, section 6.1)."""
ANSWER_TO_INITIATION: Final = 5.0
"""Seconds: REKEY_TIMEOUT, after which WireGuard itself retries."""
ANSWER_TO_DATA: Final = 12.0
"""Seconds: KEEPALIVE_TIMEOUT, and two for transit."""
SESSION_FORGOTTEN: Final = 540.0
"""Seconds: three times REJECT_AFTER_TIME, when WireGuard erases a silent session's keys."""


def asks_for_answer(sent: int) -> bool:
    """Return whether this number of bytes, sent to a peer in about a second, needs an answer."""
    return sent > 0 and sent != KEEPALIVE_SIZE


@dataclass(slots=True)
class Watch:
    """The outstanding answers of the far side. Times are monotonic seconds."""

    received: bool = True
    """Bytes came since the oldest pending initiation; set by the receiver."""
    _initiated: float | None = None
    _unanswered: float | None = None
    """The time since which bytes were sent and none received."""

    def initiation(self, now: float) -> None:
        """Record that a handshake initiation was sent."""
        if self.received or self._initiated is None:
            self.received, self._initiated = False, now

    def tick(self, now: float, *, sent: bool, received: bool) -> str | None:
        """Record the traffic since the last tick; returns the overdue answer, or None."""
        if received or (not sent and self._unanswered is None):
            self._unanswered = None
        elif self._unanswered is None:
            self._unanswered = now
        if self.received:
            self._initiated = None
        if self._initiated is not None and now - self._initiated >= ANSWER_TO_INITIATION:
            return f"a WireGuard handshake was not answered within {ANSWER_TO_INITIATION:.0f} s"
        if self._unanswered is not None and sent and now - self._unanswered >= ANSWER_TO_DATA:
            return f"nothing was answered for {ANSWER_TO_DATA:.0f} s"
        return None

    def reset(self) -> None:
        """Start over on another connection.

        A pending initiation is sent again there.
        """
        self.received, self._initiated, self._unanswered = True, None, None
