"""What must hold at every moment, whatever fails: the contract on one side, the devices on the other.

Pure: told what the contract says and what was seen on the devices, and when, it says what is wrong. It knows
nothing of the daemon and shares no code with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PROMPT: Final = 2.0
"""Seconds within which a node that nothing has hit carries out a change; it takes some milliseconds."""

Peers = Mapping[str, frozenset[str]]
"""Allowed IPs by public key (base64)."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be."""

    node: str
    key: str
    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Carried:
    """A change of the contract that has reached a device."""

    node: str
    gone: bool
    """The key is no peer any more; else it is one now."""
    after_change: float
    """Seconds from the block."""
    after_fault: float
    """Seconds from the block, or from the end of the fault that kept the node, whichever was later."""
    hit: bool
    """A fault has hit the node, and it was not well again yet."""


@dataclass(slots=True)
class _Node:
    own_key: str
    limit: float = PROMPT
    since: float = 0.0
    """The end of the last fault: what was wrong before counts from then."""
    excused: bool = False
    """A fault keeps it from carrying anything out."""
    hit: bool = False
    seen: dict[str, tuple[bool, float]] = field(default_factory=dict)
    """Whether a key is a peer, and since when."""
    wrong: dict[str, float] = field(default_factory=dict)
    """Keys that are not as the contract has it, and since when."""
    awaited: dict[str, tuple[bool, float]] = field(default_factory=dict)
    """Keys that should be gone (or be there), and since which change."""


@dataclass(slots=True)
class Invariants:
    """Holds what is seen on the devices against the contract."""

    own_keys: Mapping[str, str]
    """The nodes' public keys, by node."""
    members: dict[str, str] = field(default_factory=dict)
    """The tunnel address that the contract gives each key."""
    violations: list[Violation] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    worst: float = 0.0
    """The longest that anything was wrong on a node that nothing had hit, in seconds."""
    worst_hit: float = 0.0
    """The same on nodes that were hit, from the end of the fault."""
    samples: int = 0
    _nodes: dict[str, _Node] = field(init=False)

    def __post_init__(self) -> None:
        self._nodes = {name: _Node(key) for name, key in self.own_keys.items()}

    # -- what is known of faults ------------------------------------------------------------------------

    def hit(self, node: str, limit: float, *, excused: bool) -> None:
        """A fault begins; ``excused`` while it lasts, else it has ``limit`` seconds."""
        found = self._nodes[node]
        found.hit, found.limit = True, max(found.limit, limit)
        found.excused = found.excused or excused

    def freed(self, node: str, at: float) -> None:
        """The fault is over: its limit begins."""
        found = self._nodes[node]
        found.excused, found.since = False, at

    def well(self, node: str) -> None:
        """It follows the contract again: what comes now has to be prompt."""
        found = self._nodes[node]
        found.hit, found.limit = False, PROMPT

    # -- facts ------------------------------------------------------------------------------------------

    def contract(self, members: Mapping[str, str], at: float) -> None:
        """From ``at`` on, these keys are members, with these tunnel addresses."""
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
                elif since >= at:  # it was quicker than we
                    self._note(name, node, gone, at, since)

    def sample(self, name: str, peers: Peers | None, at: float) -> None:
        """A device was seen to have these peers; None: there is no device."""
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
        self._judge(name, node, found, at)

    def agrees(self, name: str) -> bool:
        """Whether a device, when it was last seen, was as the contract has it."""
        return not self._nodes[name].wrong

    def has(self, name: str, key: str) -> bool:
        """Whether a device, when it was last seen, had that peer."""
        return self._nodes[name].seen.get(key, (False, 0.0))[0]

    # -- judgement --------------------------------------------------------------------------------------

    def _judge(self, name: str, node: _Node, found: Peers, at: float) -> None:
        wanted = self.members.keys() - {node.own_key}
        wrong = dict.fromkeys(wanted - found.keys(), "is a member, and no peer")
        owners: dict[str, str] = {}
        for key, addresses in found.items():
            if key not in wanted:
                wrong[key] = "is a peer, and no member"
            elif f"{self.members[key]}/32" not in addresses:
                wrong[key] = f"has {sorted(addresses)} instead of {self.members[key]}"
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

    def _violated(self, violation: Violation) -> None:
        """Keep one for each node, key and cause; it lasts for many samples."""
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
