"""The invariants that hold under all faults: they compare the contract with the devices.

This module is pure. Its input is the contract's state and the observed state of the devices, with
times. Its output is the violations. It shares no code with the daemon.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PROMPT: Final = 2.0
"""The limit, in seconds, for a change on a node without a fault. It takes some milliseconds."""

_VPN: Final = "10.77."
"""The beginning of tunnel addresses."""

Peers = Mapping[str, frozenset[str]]
"""Allowed IPs by public key (base64)."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation of an invariant."""

    node: str
    key: str
    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Client:
    """A plain client: its gateway's peer has its address on all other nodes."""

    address: str
    gateway: str
    """The public key."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A change of the contract that has been applied to a device."""

    node: str
    gone: bool
    """The key was removed from the peers; otherwise it was added."""
    after_change: float
    """Seconds from the block."""
    after_fault: float
    """Seconds from the block, or from the end of the node's fault, whichever was later."""
    hit: bool
    """A fault has affected the node, and it has not recovered yet."""


@dataclass(slots=True)
class _Node:
    own_key: str
    limit: float = PROMPT
    since: float = 0.0
    """The end of the last fault. Earlier differences count from then."""
    excused: bool = False
    """A fault prevents the node from applying changes."""
    hit: bool = False
    seen: dict[str, tuple[bool, float]] = field(default_factory=dict)
    """By key: true if it is a peer, and the time of the last change."""
    wrong: dict[str, float] = field(default_factory=dict)
    """The keys that differ from the contract, and the time since when they do."""
    awaited: dict[str, tuple[bool, float]] = field(default_factory=dict)
    """The keys that must be removed (true) or added, and the time of that change."""


@dataclass(slots=True)
class Invariants:
    """Compares the observed state of the devices with the contract."""

    own_keys: Mapping[str, str]
    """The public keys by node."""
    members: dict[str, str] = field(default_factory=dict)
    """The tunnel addresses by member key, from the contract."""
    clients: dict[str, Client] = field(default_factory=dict)
    """The plain clients by key, from the contract."""
    violations: list[Violation] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    worst: float = 0.0
    """The longest difference on a node without a fault, in seconds."""
    worst_hit: float = 0.0
    """The longest difference on a node after a fault, in seconds from the fault's end."""
    samples: int = 0
    _nodes: dict[str, _Node] = field(init=False)

    def __post_init__(self) -> None:
        self._nodes = {name: _Node(key) for name, key in self.own_keys.items()}

    # -- faults ------------------------------------------------------------------------------------

    def hit(self, node: str, limit: float, *, excused: bool) -> None:
        """Record the start of a fault. ``excused`` suspends the limit while the fault lasts."""
        found = self._nodes[node]
        found.hit, found.limit = True, max(found.limit, limit)
        found.excused = found.excused or excused

    def freed(self, node: str, at: float) -> None:
        """Record the end of a fault: its limit begins."""
        found = self._nodes[node]
        found.excused, found.since = False, at

    def well(self, node: str) -> None:
        """Record that a node has recovered: from now on, `PROMPT` is its limit."""
        found = self._nodes[node]
        found.hit, found.limit = False, PROMPT

    # -- observations ------------------------------------------------------------------------------

    def contract(
        self, members: Mapping[str, str], at: float, clients: Mapping[str, Client] | None = None
    ) -> None:
        """Record the member keys and their tunnel addresses from ``at`` on, and plain clients."""
        self.clients = dict(clients or {})
        changed = dict.fromkeys(self.members.keys() - members.keys(), True)
        changed |= dict.fromkeys(members.keys() - self.members.keys(), False)
        self.members = dict(members)
        for name, node in self._nodes.items():
            for key, gone in changed.items():
                present, since = node.seen.get(key, (False, 0.0))
                node.awaited.pop(key, None)
                if key == node.own_key:
                    continue
                if present is gone:
                    node.awaited[key] = (gone, at)
                elif since >= at:  # the device changed before this call
                    self._note(name, node, gone, at, since)

    def sample(self, name: str, peers: Peers | None, at: float) -> None:
        """Record the peers of a node's device; None means that the device is missing."""
        node, found = self._nodes[name], peers or {}
        self.samples += 1
        for key in node.seen.keys() | found.keys():
            present = key in found
            if node.seen.get(key, (False, 0.0))[0] is not present:
                node.seen[key] = (present, at)
                gone, change = node.awaited.get(key, (present, 0.0))
                if gone is not present:
                    del node.awaited[key]
                    self._note(name, node, gone, change, at)
        self._compare(name, node, found, at)

    def agrees(self, name: str) -> bool:
        """Return whether a device agreed with the contract in its last sample."""
        return not self._nodes[name].wrong

    def has(self, name: str, key: str) -> bool:
        """Return whether a device had this peer in its last sample."""
        return self._nodes[name].seen.get(key, (False, 0.0))[0]

    # -- comparison --------------------------------------------------------------------------------

    def _compare(self, name: str, node: _Node, found: Peers, at: float) -> None:
        wanted = self._wanted(node)
        wrong = dict.fromkeys(wanted.keys() - found.keys(), "is a member, but not a peer")
        owners: dict[str, str] = {}
        for key, addresses in found.items():
            if key not in wanted:
                wrong[key] = "is a peer, but not a member"
            elif wanted[key] != {each for each in addresses if each.startswith(_VPN)}:
                expected = ", ".join(sorted(each.partition("/")[0] for each in wanted[key]))
                wrong[key] = f"has {sorted(addresses)} instead of {expected}"
            for address in addresses:
                if owners.setdefault(address, key) != key:
                    self._violated(Violation(name, key, f"shares {address} with {owners[address]}", 0.0))
        node.wrong = {key: node.wrong.get(key, at) for key in wrong}
        if node.excused:
            return
        for key, begin in node.wrong.items():
            seconds = at - max(begin, node.since)
            if node.hit:
                self.worst_hit = max(self.worst_hit, seconds)
            else:
                self.worst = max(self.worst, seconds)
            if seconds > node.limit:
                self._violated(Violation(name, key, wrong[key], seconds))

    def _wanted(self, node: _Node) -> dict[str, set[str]]:
        """Return the IPv4 addresses in the tunnel of each peer that a node should have."""
        wanted = {key: {f"{address}/32"} for key, address in self.members.items() if key != node.own_key}
        for key, client in self.clients.items():
            if client.gateway == node.own_key:
                wanted[key] = {f"{client.address}/32"}
            elif client.gateway in wanted:
                wanted[client.gateway].add(f"{client.address}/32")
        return wanted

    def _violated(self, violation: Violation) -> None:
        """Keep one violation by node, key and cause, since it recurs in many samples."""
        same = [
            number
            for number, known in enumerate(self.violations)
            if (known.node, known.key, known.what) == (violation.node, violation.key, violation.what)
        ]
        if same:
            self.violations[same[0]] = max(violation, self.violations[same[0]], key=lambda v: v.seconds)
        else:
            self.violations.append(violation)

    def _note(self, name: str, node: _Node, gone: bool, change: float, at: float) -> None:
        self.carried.append(Carried(name, gone, at - change, at - max(change, min(node.since, at)), node.hit))
