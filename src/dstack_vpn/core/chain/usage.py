"""The use of RPC endpoints: calls, notifications and their bytes, by endpoint and method.

Bytes are those of JSON-RPC messages. The overhead of HTTP, WebSocket and TLS is not included, nor
is the effect of compression. Providers bill the same bytes.
"""

from collections.abc import Callable, Iterable, Mapping
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


_NONE: Final = Usage()

UsageByEndpoint: TypeAlias = Mapping[str, Mapping[str, Usage]]
"""The use by the endpoint's name (scheme and host) and by method."""


@dataclass(frozen=True, slots=True)
class Total:
    """The sum over methods and endpoints."""

    calls: int = 0
    notifications: int = 0
    sent: int = 0
    """Bytes, as in `Usage`."""
    received: int = 0

    @property
    def bytes(self) -> int:
        """Return the bytes in both directions."""
        return self.sent + self.received


def total(usage: UsageByEndpoint) -> Total:
    """Return the sum of all endpoints and methods."""
    calls = notifications = sent = received = 0
    for methods in usage.values():
        for method, each in methods.items():
            calls += each.count if method not in UNASKED else 0
            notifications += each.count if method == NOTIFICATION else 0
            sent += each.sent
            received += each.received
    return Total(calls, notifications, sent, received)


def added(one: UsageByEndpoint, other: UsageByEndpoint) -> UsageByEndpoint:
    """Return the sum by endpoint and method."""
    return _combined(one, other, lambda a, b: a + b)


def subtracted(one: UsageByEndpoint, other: UsageByEndpoint) -> UsageByEndpoint:
    """Return the difference by endpoint and method, without methods that were not used."""
    return _combined(one, other, lambda a, b: a - b)


def by_method(usage: UsageByEndpoint) -> Mapping[str, Usage]:
    """Return the sum of all endpoints for each method."""
    found: dict[str, Usage] = {}
    for methods in usage.values():
        for method, each in methods.items():
            found[method] = found.get(method, _NONE) + each
    return found


def _combined(
    one: UsageByEndpoint, other: UsageByEndpoint, combine: Callable[[Usage, Usage], Usage]
) -> UsageByEndpoint:
    found: dict[str, Mapping[str, Usage]] = {}
    for endpoint in {**one, **other}:
        mine, theirs = one.get(endpoint, {}), other.get(endpoint, {})
        sums = {name: combine(mine.get(name, _NONE), theirs.get(name, _NONE)) for name in {**mine, **theirs}}
        if used := {name: each for name, each in sums.items() if each != _NONE}:
            found[endpoint] = used
    return found


def shares(size: int, count: int) -> Iterable[int]:
    """Divide ``size`` bytes among ``count`` messages. The first ones have the remainder."""
    each, rest = divmod(size, max(count, 1))
    return (each + (number < rest) for number in range(count))
