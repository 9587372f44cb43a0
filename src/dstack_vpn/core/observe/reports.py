"""What each part of the daemon reports about itself: small, frozen, made when somebody asks.

Times are Unix seconds, durations are seconds; None means never, or not known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.staleness import StalePolicy


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Following the chain."""

    endpoint: str | None = None
    """The RPC endpoint that is followed; None while there is none."""
    problem: str | None = "no endpoint has answered yet"
    """Why no endpoint is followed."""
    since: float | None = None
    """When an endpoint was found or lost."""
    head: int | None = None
    head_seen: float | None = None
    paced: bool = False
    """Whether blocks come at a known pace, so that silence means something."""
    behind: float = 0.0
    """Seconds by which the tip is behind the newest block that an endpoint has shown..."""
    blocks_behind: int = 0
    """...and blocks."""
    clock_problem: str | None = None
    """How this machine's clock differs from the chain's."""


@dataclass(frozen=True, slots=True)
class MembersReport:
    """The registry and our own membership in it."""

    synced: float | None = None
    """When the registry was last known to be what the chain says."""
    stale: bool = False
    """The members come from the state directory; the chain has not confirmed them since the start."""
    age: float | None = None
    """Seconds since the chain last confirmed the registry."""
    max_staleness: float = math.inf
    stale_policy: StalePolicy = StalePolicy.KEEP
    isolated: bool = False
    """There are no peers, because the registry is too old."""
    too_old: str | None = None
    """Why no member was restored from the state directory."""
    pinned: bool = False
    own_problem: str | None = None
    """Why this node is not a member."""

    @property
    def known(self) -> bool:
        """Whether there are members to go by."""
        return self.synced is not None or self.stale


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The WireGuard interface and its peers."""

    up: bool = False
    problem: str | None = "the interface has not been set up yet"
    since: float | None = None
    """When the device began to work, or to fail."""
    route_problem: str | None = None
    """Which route of another program takes packets that belong into the tunnel."""
    without_ipv6: bool = False
    """The host has IPv6 disabled, so the interface has no IPv6 address."""
    held: int = 0
    """Removals that wait for a second reading of the chain."""


@dataclass(frozen=True, slots=True)
class QuorumReport:
    """How far the RPC endpoints agree."""

    needed: int
    agreeing: int = 0
    """Endpoints that had our block and answered at the last resync, the followed one included."""
    waiting: int = 0
    """Grants that wait for more endpoints."""
    disputed: tuple[int, ...] = ()
    """Tokens that are out because one endpoint shows them out and others don't."""
    contested: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Tokens about which endpoints contradict each other, without a majority."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Endpoints in quarantine, and why."""
    contradictions: Mapping[str, int] = field(default_factory=dict)
    """How often each endpoint was put in quarantine."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Endpoints that did not answer the last resync, and why."""


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The age of our own key; seconds."""

    longest: float
    """What KEY_MAX_AGE allows."""
    due: float
    """The age from which on it is changed."""
    hindrance: str | None = None
    """Why this node can't change it by itself, and what to do."""
    age: float | None = None
    """None: not known yet, or the registry has no key of ours."""
    failures: int = 0
    """Failed tries in a row."""
    problem: str | None = None
    """Why the last one failed."""
    announced: int = 0
    """Keys that were registered since the start."""
    failed: int = 0
    """Tries that failed since the start."""


@dataclass(frozen=True, slots=True)
class StorageReport:
    """The state directory."""

    store: str | None = None
    """Why the registry or the wg-quick file can't be written."""
    audit: str | None = None
    """Why the audit log can't be written."""


@dataclass(frozen=True, slots=True)
class FirewallReport:
    """The packet filter."""

    problem: str | None = None
    """Why its rules can't be set."""
    unprotected: str | None = None
    """What no packet filter enforces, and why."""
    by_choice: bool = False
    """Whether the settings ask for that."""


@dataclass(frozen=True, slots=True)
class Reports:
    """All of them at one moment."""

    started: float
    chain: ChainReport = ChainReport()
    members: MembersReport = MembersReport()
    device: DeviceReport = DeviceReport()
    storage: StorageReport = StorageReport()
    quorum: QuorumReport | None = None
    """None if RPC_QUORUM is 1."""
    key: KeyReport | None = None
    """None without KEY_MAX_AGE."""
    relays: Mapping[str, str] = field(default_factory=dict)
    """Peers whose relays carry nothing, and why."""
    firewall: FirewallReport | None = None
    """None if no packet filter is wanted."""
    parts: Mapping[str, str | None] = field(default_factory=dict)
    """Optional parts that run, such as the DNS server, each with its problem."""


FIRST: Final = Reports(started=0.0)
"""Before anything has happened."""
