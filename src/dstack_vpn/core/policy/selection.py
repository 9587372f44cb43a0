"""The choice of the policies that are in force (docs/decisions/0037-policy.md).

A policy that can't be used changes nothing: the last good one stays in force.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.chain.contract import Hash, Policy
from dstack_vpn.core.policy.compiler import PolicyInForce
from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.core.policy.evaluation import failures
from dstack_vpn.errors import FormatError

FILE: Final = "file"
"""The id of POLICY_FILE."""
_ID_DIGITS: Final = 8
"""The digits of a policy's hash in names of counters and in metrics."""
_KEPT: Final = 16
"""The number of accepted policies whose tests are not run again, as after a reorg."""

Testers: TypeAlias = Callable[[PolicyDocument], MemberDirectory]
"""Returns the members that the tests of a policy name."""


@dataclass(frozen=True, slots=True)
class GoodPolicy:
    """The policy of a registry that a node has accepted last."""

    hash: Hash | None
    """None: the registry had no policy."""
    text: str | None = None


class PolicyError(FormatError):
    """A policy can't be used."""


class PolicyTextMissingError(PolicyError):
    """The text of a policy was not read yet."""


@dataclass(slots=True)
class PolicySelection:
    """The policies in force, from those that the chain and the operator offer."""

    file: PolicyDocument | None = None
    """The policy of POLICY_FILE; None without one."""
    good: GoodPolicy | None = None
    """The last good policy of the registry; None before the first."""
    in_force: tuple[PolicyInForce, ...] | None = field(default=None, init=False)
    """Each of them must permit a connection. Empty: nothing is permitted; None: no policy
    restricts anything."""
    refused: str | None = field(default=None, init=False)
    """The reason that a policy of the registry is not in force, or None."""
    warning: str | None = field(default=None, init=False)
    """A failing test of a policy that is in force, or a policy whose text is missing; or None."""
    waits_for_members: bool = field(default=False, init=False)
    """True if a policy is refused because of its tests. Another state of the registry may help."""
    _accepted: dict[Hash | None, None] = field(default_factory=dict, init=False)
    """The hashes of accepted policies, the newest last."""

    def restore(self, good: GoodPolicy) -> None:
        """Begin with the policy that was accepted before a restart.

        A text that an earlier release could read and this one can't is ignored.
        """
        with suppress(FormatError):
            _document(good)
            self.good = good

    def use_file(self, document: PolicyDocument) -> None:
        """Use another policy of POLICY_FILE, from the next choice on."""
        self.file = document

    def choose(self, offered: Sequence[Policy | None] | None, testers: Testers) -> None:
        """Choose from the registry's policies. ``offered`` is None if it can't have one.

        It is empty while nothing is confirmed, and one of its items is None if the registry has no
        policy.
        """
        self.refused = self.warning = None
        self.waits_for_members = False
        own = () if self.file is None else (PolicyInForce(FILE, self.file),)
        chain = None if offered is None else self._from_chain(offered, testers)
        if chain is None:
            self.in_force = own or None
        elif None in chain:
            self.in_force = ()
        else:
            self.in_force = (*(each for each in chain if each is not None), *own) or None

    def _from_chain(self, offered: Sequence[Policy | None], testers: Testers) -> list[PolicyInForce | None]:
        """Return the policies that restrict; a None among them permits nothing."""
        if not offered:
            return [None]
        found: dict[str, PolicyInForce] = {}
        good = self.good
        for number, policy in enumerate(offered):
            try:
                document = self._usable(policy, testers)
            except PolicyError as error:
                if isinstance(error, PolicyTextMissingError):
                    self.warning = str(error)
                else:
                    self.refused = self.refused or str(error)
                if self.good is None:
                    return [None]
                taken, document = self.good, _document(self.good)
            else:
                taken = _as_good(policy, self.good)
                if number == 0:
                    good = taken
            if taken.hash is not None and document is not None:
                found[taken.hash] = PolicyInForce(
                    taken.hash[2 : 2 + _ID_DIGITS], document, taken.hash, taken.text
                )
        self.good = good
        return list(found.values())

    def _usable(self, policy: Policy | None, testers: Testers) -> PolicyDocument | None:
        """Return a policy's document; None permits everything. Raises `PolicyError`."""
        if policy is None:
            return self._accept(None, None)
        named = f"policy {policy.hash[:10]}…"
        if policy.text is None:
            if self.good is None or self.good.hash != policy.hash:
                raise PolicyTextMissingError(f"the text of {named} was not read yet")
            return _document(self.good)
        try:
            document = parse_policy(policy.text)
        except FormatError as error:
            raise PolicyError(f"{named} can't be used: {error}") from None
        if policy.hash in self._accepted or (self.good is not None and self.good.hash == policy.hash):
            return self._accept(policy.hash, document)
        failure = next(failures(document, testers(document)), None)
        if failure is not None:
            problem = f"test {failure.number} of {named} fails: {failure.problem}"
            if self.good is not None:
                self.waits_for_members = True
                raise PolicyError(problem)
            self.warning = problem
        return self._accept(policy.hash, document)

    def _accept(self, hash_: Hash | None, document: PolicyDocument | None) -> PolicyDocument | None:
        self._accepted.pop(hash_, None)
        self._accepted[hash_] = None
        while len(self._accepted) > _KEPT:
            del self._accepted[next(iter(self._accepted))]
        return document


def _as_good(policy: Policy | None, before: GoodPolicy | None) -> GoodPolicy:
    if policy is None:
        return GoodPolicy(None)
    if before is not None and before.hash == policy.hash:
        return before  # its text may not have been read again
    return GoodPolicy(policy.hash, policy.text)


def _document(good: GoodPolicy) -> PolicyDocument | None:
    return None if good.text is None else parse_policy(good.text)
