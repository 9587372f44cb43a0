"""All errors that dstack-vpn raises on purpose.

The type of an error determines its handling:

    DstackVpnError               the base; its text is shown without a traceback
    ├── ConfigError              the operator corrects the configuration (exit code 78)
    ├── InTheWayError            another program's object on this host conflicts (exit code 78)
    ├── FormatError              a text or byte string from outside is malformed
    ├── ChainError               a call to the chain failed
    │   ├── RetryError           the same endpoint may answer the same call later
    │   ├── RangeError           the call asked for too much: ask for less
    │   ├── EndpointError        this endpoint is unusable now: use another one
    │   │   ├── BehindError      it is behind the others: follow another one temporarily
    │   │   └── LogsError        it does not serve logs: read the contract's state instead
    │   ├── CallRevertedError    the contract refused the call (contains its named error)
    │   └── WrongChainError      another chain or a wiped one: keep the known state
    ├── DeviceError              the WireGuard device refused or lost a change
    │   └── DeviceGoneError      the device was removed: set it up again
    ├── FirewallError            the packet filter could not be changed
    ├── StoreError               the state directory can't be used
    ├── AgentError               the dstack guest agent does not reply, or its reply is wrong
    ├── RelayError               a relay can't listen, connect, or agree on TLS with the other side
    └── AdminError               an admin command failed; it is not retried
        ├── TryAgainError        a service that the command needs does not answer (exit code 75)
        └── UnknownOutcomeError  a transaction was sent, its outcome is unknown (exit code 75)

Errors of libraries are translated at the call, with the cause chained.
"""

from collections.abc import Sequence


class DstackVpnError(Exception):
    """The base of all errors raised on purpose; ``str(error)`` is a readable message."""


class ConfigError(DstackVpnError):
    """The configuration can't be used.

    ``problems`` are messages with the variable, the problem and an example.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class InTheWayError(DstackVpnError):
    """Objects of other programs on this host conflict with the node; nothing was changed.

    ``problems`` are messages with the object, the reason that it belongs to another program, and
    the remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class FormatError(DstackVpnError, ValueError):
    """A text or byte string from outside is malformed."""


class ChainError(DstackVpnError):
    """A call to the chain failed."""


class RetryError(ChainError):
    """The endpoint may answer later; ``retry_after`` (seconds) is its request, or None."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RangeError(ChainError):
    """The call covered too many blocks, results or bytes, or too much gas."""


class EndpointError(ChainError):
    """The endpoint is unreachable, silent, or sends malformed replies."""


class BehindError(EndpointError):
    """The endpoint is behind other endpoints: follow another one temporarily."""


class LogsError(EndpointError):
    """The endpoint answers, but does not serve the missing logs: read the state instead."""


class CallRevertedError(ChainError):
    """The contract reverted the call; ``data`` is its ABI-encoded error."""

    def __init__(self, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.data = data


class WrongChainError(ChainError):
    """The endpoint's chain id, genesis or contract is not the configured one."""


class DeviceError(DstackVpnError):
    """A WireGuard device or its link could not be read or changed."""


class DeviceGoneError(DeviceError):
    """The WireGuard device or its control socket was removed."""


class FirewallError(DstackVpnError):
    """The packet filter could not be changed."""


class StoreError(DstackVpnError):
    """The state directory can't be read or written."""


class AgentError(DstackVpnError):
    """The dstack guest agent can't be reached, or does not return a key or quote."""


class RelayError(DstackVpnError):
    """A relay can't listen, or has no connection to its far side."""


class AdminError(DstackVpnError):
    """An administrative command failed."""


class TryAgainError(AdminError):
    """A service that a command needs did not answer: the same command may work later."""


class UnknownOutcomeError(AdminError):
    """A transaction was sent, or may have been: look it up before another is sent."""
