"""The reports of the daemon's parts: small, frozen, and made on request.

Times are Unix seconds, durations are seconds; None means never, or not known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.core.chain.budget import BudgetStage


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The state of chain following."""

    endpoint: str | None = None
    """The RPC endpoint that is followed, or None."""
    problem: str | None = "no endpoint has answered yet"
    """The reason that no endpoint is followed."""
    since: float | None = None
    """The time at which an endpoint was found or lost."""
    head: int | None = None
    head_seen: float | None = None
    paced: bool = False
    """Blocks come at a known pace, so that their absence is a failure."""
    head_interval: float = 0.0
    """Seconds between heads if they are queried; 0 if they are announced."""
    behind: float = 0.0
    """Seconds by which the tip is behind the newest block that an endpoint has shown..."""
    blocks_behind: int = 0
    """...and blocks."""
    clock_problem: str | None = None
    """The difference between this machine's clock and the chain's."""


@dataclass(frozen=True, slots=True)
class MembersReport:
    """The registry and our own membership in it."""

    synced: float | None = None
    """The time at which the registry was last confirmed by the chain."""
    stale: bool = False
    """The members come from the state directory and are not confirmed since the start."""
    age: float | None = None
    """Seconds since the chain last confirmed the registry."""
    max_staleness: float = math.inf
    stale_policy: StalePolicy = StalePolicy.KEEP
    isolated: bool = False
    """There are no peers, because the registry is too old."""
    too_old: str | None = None
    """The reason that no member was restored from the state directory."""
    pinned: bool = False
    own_problem: str | None = None
    """The reason that this node is not a member."""
    refused_clients: tuple[str, ...] = ()
    """Plain clients that name this node as their gateway without success, with the reasons."""
    refused_routes: tuple[str, ...] = ()
    """Routes of our own token that can't be used, with the reasons."""

    @property
    def known(self) -> bool:
        """Return whether members are known."""
        return self.synced is not None or self.stale


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The WireGuard interface and its peers."""

    up: bool = False
    problem: str | None = "the interface has not been set up yet"
    since: float | None = None
    """The time at which the device began to work, or to fail."""
    route_problem: str | None = None
    """The route of another program that takes packets for the tunnel."""
    without_ipv6: bool = False
    """The host has IPv6 disabled, so the interface has no IPv6 address."""
    held: int = 0
    """Removals that wait for a second reading of the chain."""


@dataclass(frozen=True, slots=True)
class QuorumReport:
    """The agreement of the RPC endpoints."""

    needed: int
    agreeing: int = 0
    """Endpoints that had our block and answered at the last resync, the followed one included."""
    waiting: int = 0
    """Grants that wait for more endpoints."""
    disputed: tuple[int, ...] = ()
    """Tokens that are off the network because one endpoint shows that, and others don't."""
    contested: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Tokens about which endpoints contradict each other, without a majority."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Endpoints in quarantine, with the reasons."""
    contradictions: Mapping[str, int] = field(default_factory=dict)
    """The number of quarantines of each endpoint."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Endpoints that did not answer the last resync, with the reasons."""


@dataclass(frozen=True, slots=True)
class EarlyReport:
    """Early revocations (REVOKE_EARLY)."""

    tokens: tuple[int, ...] = ()
    """The tokens that are out by pre-confirmed events."""
    endpoint: str | None = None
    """The endpoint of the last subscription to pre-confirmed events."""
    problem: str | None = None
    """The reason that it announces none."""
    ignored_for: float = 0.0
    """Seconds for which pre-confirmed events are ignored, after a false one."""
    removed: int = 0
    """Tokens that were taken out since the start."""
    confirmed: int = 0
    """Those of them whose events the chain has."""
    false: int = 0
    """Those of them that were given back."""

    @property
    def available(self) -> bool:
        """Return whether the endpoint announces pre-confirmed events."""
        return self.endpoint is not None and self.problem is None


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """The budget of RPC calls for a day (RPC_DAILY_CALLS)."""

    used: int
    """Calls since 00:00 UTC."""
    calls: int
    """The budget."""
    stage: BudgetStage
    longest: float
    """The longest interval between resyncs in seconds."""


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The age of our own key, in seconds."""

    longest: float
    """The longest age, KEY_MAX_AGE."""
    due: float
    """The age at which key rotation begins."""
    hindrance: str | None = None
    """The reason that this node can't change it by itself, and the remedy."""
    age: float | None = None
    """None: not known yet, or our key is not in the registry."""
    failures: int = 0
    """Failed attempts in a row."""
    problem: str | None = None
    """The reason that the last attempt failed."""
    announced: int = 0
    """Keys registered since the start."""
    failed: int = 0
    """Failed attempts since the start."""


@dataclass(frozen=True, slots=True)
class StorageReport:
    """The state directory."""

    store: str | None = None
    """The reason that the registry or the wg-quick file can't be written."""
    audit: str | None = None
    """The reason that the audit log can't be written."""


@dataclass(frozen=True, slots=True)
class FirewallReport:
    """The packet filter."""

    problem: str | None = None
    """The reason that its rules can't be set."""
    unprotected: str | None = None
    """The rules that no packet filter enforces, with the reason."""
    by_choice: bool = False
    """The settings ask for that."""


@dataclass(frozen=True, slots=True)
class RoutesReport:
    """The networks behind other nodes (ACCEPT_ROUTES)."""

    used: int = 0
    conflicts: Mapping[str, str] = field(default_factory=dict)
    """The networks that conflict with this host, with the reasons."""


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """The policies in force."""

    in_force: tuple[str, ...] | None
    """Their ids; empty: nothing is permitted; None: no policy restricts anything."""
    refused: str | None = None
    """The reason that a policy of the registry is not in force."""
    warning: str | None = None
    """A failing test of a policy that is in force, or a policy whose text was not read yet."""
    unenforced: str | None = None
    """The reason that the policies can't be enforced."""


@dataclass(frozen=True, slots=True)
class ExitReport:
    """The exit of this node (EXIT_NODE)."""

    used: str | None = None
    """The node by which everything leaves; None: nothing leaves."""
    preferred: bool = True
    """It is the first of EXIT_NODE."""
    versions: tuple[int, ...] = ()
    """The IP versions that it has."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The nodes that can't be used, with the reasons."""
    silent: tuple[str, ...] = ()
    """The nodes that do not answer."""
    unguarded: str | None = None
    """The reason that the kill switch is not in force."""


@dataclass(frozen=True, slots=True)
class Reports:
    """All reports at one moment."""

    started: float
    chain: ChainReport = ChainReport()
    members: MembersReport = MembersReport()
    device: DeviceReport = DeviceReport()
    storage: StorageReport = StorageReport()
    quorum: QuorumReport | None = None
    """None if RPC_QUORUM is 1."""
    budget: BudgetReport | None = None
    """None without RPC_DAILY_CALLS."""
    early: EarlyReport | None = None
    """None without REVOKE_EARLY."""
    key: KeyReport | None = None
    """None without KEY_MAX_AGE."""
    relays: Mapping[str, str] = field(default_factory=dict)
    """Peers whose relays carry nothing, with the reasons."""
    policy: PolicyReport | None = None
    """None if no policy restricts anything, and none was refused."""
    exit: ExitReport | None = None
    """None without EXIT_NODE."""
    routes: RoutesReport | None = None
    """None if no networks behind other nodes are accepted."""
    gateway: str | None = None
    """The reason that this machine does not forward for its plain clients, or to its networks."""
    firewall: FirewallReport | None = None
    """None if no packet filter is wanted."""
    parts: Mapping[str, str | None] = field(default_factory=dict)
    """Optional parts that run, such as the DNS server, each with its problem."""


FIRST: Final = Reports(started=0.0)
"""The reports before the start."""
