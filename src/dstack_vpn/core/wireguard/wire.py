"""WireGuard's messages from outside: no keys needed to see that an answer is overdue.

WireGuard promises answers (whitepaper, section 6): to a handshake initiation at once, to data within
KEEPALIVE_TIMEOUT, 10 s. Where neither comes, what lies between is broken, however well TCP may be.
"""

from dataclasses import dataclass
from typing import Final

INITIATION_SIZE: Final = 148
"""Bytes of a handshake initiation (section 5.4.2). Data is a multiple of 16: nothing else has this size."""
INITIATION: Final = 1
"""Its first byte."""
KEEPALIVE_SIZE: Final = 32
"""Bytes of a keepalive, which is data of length 0 (section 5.4.6). The smallest packet makes 64 of them."""
SESSION_LIFE: Final = 180.0
"""Seconds after a handshake until its session is refused (REJECT_AFTER_TIME, section 6.1)."""
ANSWER_TO_INITIATION: Final = 5.0
"""Seconds: REKEY_TIMEOUT, after which WireGuard itself tries again."""
ANSWER_TO_DATA: Final = 12.0
"""Seconds: KEEPALIVE_TIMEOUT, and two for the way."""
SESSION_FORGOTTEN: Final = 540.0
"""Seconds: three times REJECT_AFTER_TIME, when WireGuard erases what it knows of a silent session."""


def asks_for_answer(sent: int) -> bool:
    """Return whether so many bytes, sent to a peer in about a second, ask it for an answer."""
    return sent > 0 and sent != KEEPALIVE_SIZE


@dataclass(slots=True)
class Watch:
    """Whether the far side owes us something. Times are monotonic seconds."""

    heard: bool = True
    """Something came since the oldest initiation that we still count on; set by whoever hears it."""
    _initiated: float | None = None
    _unanswered: float | None = None
    """Since when there is sending without hearing."""

    def initiation(self, now: float) -> None:
        """A handshake initiation went out."""
        if self.heard or self._initiated is None:
            self.heard, self._initiated = False, now

    def tick(self, now: float, *, sent: bool, received: bool) -> str | None:
        """What happened since the last tick; returns what is overdue, or None."""
        if received or (not sent and self._unanswered is None):
            self._unanswered = None
        elif self._unanswered is None:
            self._unanswered = now
        if self.heard:
            self._initiated = None
        if self._initiated is not None and now - self._initiated >= ANSWER_TO_INITIATION:
            return f"a WireGuard handshake was not answered within {ANSWER_TO_INITIATION:.0f} s"
        if self._unanswered is not None and sent and now - self._unanswered >= ANSWER_TO_DATA:
            return f"nothing was answered for {ANSWER_TO_DATA:.0f} s"
        return None

    def reset(self) -> None:
        """Begin anew, over another connection: an initiation that is under way is sent again there."""
        self.heard, self._initiated, self._unanswered = True, None, None
