"""The use of RPC endpoints: calls, notifications and their bytes, by endpoint and method.

Bytes are those of JSON-RPC messages. The overhead of HTTP, WebSocket and TLS is not included, nor
is the effect of compression. Providers bill the same bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

NOTIFICATION: Final = "eth_subscription"
"""The method of notifications. An endpoint sends them without a call."""
OTHER: Final = "other"
"""The method of messages that belong to no current call, such as a reply after its deadline."""
UNASKED: Final = frozenset({NOTIFICATION, OTHER})
"""The methods of messages that are not calls of this node."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of one method."""

    count: int = 0
    """Requests that were sent, repeated ones included. Of `UNASKED` methods: received messages."""
    sent: int = 0
    """Bytes."""
    received: int = 0
    """Bytes."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.count + other.count, self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.count - other.count, self.sent - other.sent, self.received - other.received)


UsageByEndpoint: TypeAlias = Mapping[str, Mapping[str, Usage]]
"""The use by the endpoint's name (scheme and host) and by method."""


def shares(size: int, count: int) -> Iterable[int]:
    """Divide ``size`` bytes among ``count`` messages. The first ones have the remainder."""
    each, rest = divmod(size, max(count, 1))
    return (each + (number < rest) for number in range(count))
