"""A quorum for the tag names and the policy, by the rules of `core.access.quorum`.

Both grant rights: a policy grants what it permits, and a name decides to which tag a permission
belongs. A policy is a text, of which no part can be confirmed alone. Therefore several policies can
be in force at once, and an access needs the permission of each of them:

    the policy that k endpoints have shown          in force until k have shown another
    the followed endpoint's newest policy           in force at once, and so restricts at once
    the one that it showed before                   the same, until k endpoints have replied since
    another policy that any other endpoint shows    the same, until that endpoint shows ours at a
                                                    later block, or is quarantined

Thus fewer than k endpoints permit nothing that the confirmed policy does not permit, and a change
that restricts needs no quorum. A name counts if k endpoints have shown it and no endpoint shows
another name for that bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dstack_vpn.core.access.replies import Comparison
from dstack_vpn.core.chain.contract import Claim, ContractState, Policy


@dataclass(frozen=True, slots=True)
class Rules:
    """The tag names and policies that count."""

    tag_names: tuple[str, ...] = ()
    """The name of each bit; empty if it has none that counts."""
    policies: tuple[Policy | None, ...] = ()
    """All of them must permit an access; None: the contract has no policy.

    Empty: nothing is confirmed yet. A policy without its text permits nothing.
    """

    @classmethod
    def of(cls, state: ContractState) -> "Rules":
        """Return the rules of a state that needs no quorum."""
        return cls(state.tag_names, (state.policy,) if state.is_read else ())


@dataclass(slots=True)
class ContractQuorum:
    """The tag names and the policy that enough endpoints have confirmed."""

    needed: int
    """Endpoints that must agree, the followed one included; 2 or more."""
    pending: bool = False
    """True if the followed endpoint's newest state waits for confirmation."""
    _confirmed: tuple[ContractState, int] | None = None
    """The last confirmed state, and the height at which it was confirmed."""
    _claims: dict[str, tuple[ContractState, int]] = field(default_factory=dict)
    """The states of endpoints that contradict ours, with the heights of their blocks."""
    _ours: ContractState | None = None
    """The state that the followed endpoint shows."""
    _former: ContractState | None = None
    """The one that it showed before: an endpoint that agreed with that made no claim."""
    _replied: set[str] = field(default_factory=set)
    """The endpoints that have replied since."""

    def rules(self, ours: ContractState) -> Rules:
        """Return what counts, beside the followed endpoint's state."""
        if self._confirmed is None:
            return Rules()
        shown = [self._confirmed[0], ours, *(state for state, _ in self._claims.values())]
        if self._former is not None:
            shown.append(self._former)
        policies: dict[str | None, Policy | None] = {}
        for policy in (state.policy for state in shown):
            hash_ = None if policy is None else policy.hash
            if (known := policies.get(hash_)) is None or known.text is None:
                policies[hash_] = policy
        return Rules(tuple(_names(shown)), tuple(policies.values()))

    def confirms(self, state: ContractState) -> bool:
        """Return whether this state can be restored without querying any endpoint."""
        return self._confirmed is not None and self._confirmed[0].claim == state.claim and not self._claims

    def due(self, height: int) -> bool:
        """Return whether the endpoints are to be queried at that height."""
        return self.pending or (bool(self._claims) and max(at for _, at in self._claims.values()) <= height)

    # -- events ------------------------------------------------------------------------------------

    def remember(self, state: ContractState, height: int) -> None:
        """Restore a state that was confirmed before a restart, at that height or below."""
        self._confirmed = state, height

    def update(self, ours: ContractState) -> None:
        """Record the state that the followed endpoint shows."""
        confirmed, before = self._confirmed, self._ours
        if before is not None and before.is_read and before.claim != ours.claim:
            self._former, self._replied = before, set()
        self._ours = ours
        self.pending = ours.is_read and (confirmed is None or confirmed[0].claim != ours.claim)

    def replied(self, comparisons: Sequence[Comparison]) -> None:
        """Count the endpoint of a reply that is about to be judged."""
        self._replied.update(x.endpoint for x in comparisons if x.contract is not None and x.on_our_chain)
        if len(self._replied) >= self.needed:
            self._former = None

    def discard(self, endpoint: str) -> None:
        """Drop the claim of a quarantined endpoint."""
        self._claims.pop(endpoint, None)

    def judge(
        self, ours: ContractState, comparisons: Sequence[Comparison], *, settles: bool
    ) -> dict[str, str]:
        """Judge comparisons with our state at that block; return contradicted endpoints.

        ``settles`` is false if our state has changed since, or includes a later block. Then the
        comparisons only restrict.
        """
        found = [x for x in comparisons if x.contract is not None]
        contradicted = self._settle(ours, found) if settles and ours.is_read else {}
        for comparison in found:
            if comparison.endpoint not in contradicted:
                self._note(self._ours or ours, comparison)
        return contradicted

    # -- helpers -----------------------------------------------------------------------------------

    def _settle(self, ours: ContractState, found: Sequence[Comparison]) -> dict[str, str]:
        """Count the sides, and accuse the minority."""
        agree = [x for x in found if x.on_our_chain and _claim(x) == ours.claim]
        groups: dict[Claim | None, list[str]] = {}
        for comparison in found:
            if comparison.definitive and _claim(comparison) != ours.claim:
                groups.setdefault(_claim(comparison), []).append(comparison.endpoint)
        here = [x.endpoint for x in agree if x.definitive]
        biggest = max(map(len, groups.values()), default=0)
        accused: list[str] = []
        if len(agree) >= self.needed > biggest:
            if len(here) >= self.needed:
                accused = [name for group in groups.values() for name in group]
            if self.pending or self._confirmed is None:
                self._confirmed, self.pending = (ours, min(x.height for x in agree)), False
        elif biggest >= self.needed > len(agree):
            accused = here
        return dict.fromkeys(accused, "the others contradict its policy or its names of tags")

    def _note(self, ours: ContractState, comparison: Comparison) -> None:
        """Note or drop an endpoint's claim; an old or a foreign block proves nothing."""
        name, state = comparison.endpoint, comparison.contract
        assert state is not None
        if name in self._claims and comparison.height < self._claims[name][1]:
            return
        if state.claim == ours.claim:
            self._claims.pop(name, None)
            return
        since = None if self._confirmed is None else self._confirmed[1]
        if comparison.on_our_chain or (since is not None and comparison.height >= since):
            self._claims[name] = state, comparison.height


def _claim(comparison: Comparison) -> Claim | None:
    return None if comparison.contract is None else comparison.contract.claim


def _names(shown: Sequence[ContractState]) -> Iterator[str]:
    """Yield the confirmed name of each bit, or an empty one if another state has another name."""
    confirmed, *others = (state.tag_names for state in shown)
    for index, name in enumerate(confirmed):
        rivals = {names[index] for names in others if index < len(names)} - {"", name}
        yield "" if rivals else name
