"""The registry contract's own state, beside its tokens: tag names, policy and roles.

The events determine all of it except the policy's text: they carry only the text's hash. The text
is read separately and belongs to exactly that hash.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from dstack_vpn.core.model import GENESIS, ZERO_ADDRESS, Address, Position, TokenId

CONTRACT: Final[TokenId] = -1
"""Stands for the contract itself among token ids."""
MAX_TAGS: Final = 256
"""The bits of a token's tags."""
MAX_POLICY: Final = 24_000
"""The bytes of a policy."""

Hash: TypeAlias = str
"""``0x`` and 64 lower-case hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The newest policy."""

    hash: Hash
    """The Keccak-256 hash of the text's UTF-8."""
    since: Position = GENESIS
    """The position at which it was set, or of the reading that found it."""
    text: str | None = None
    """None: it was not read yet. It contains any characters that its administrators chose."""


class Claim(NamedTuple):
    """The part of a contract's state that grants rights, without the policy's text."""

    tag_names: tuple[str, ...]
    policy: Hash | None


@dataclass(frozen=True, slots=True)
class ContractState:
    """The state of the contract itself at one position of the chain."""

    is_read: bool = False
    """True once the whole state was read. A contract without tags and policy is never read."""
    tag_names: tuple[str, ...] = ()
    """The name of each bit in a token's tags; empty for a bit whose name is not known."""
    policy: Policy | None = None
    """None: the contract has no policy."""
    minters: tuple[Address, ...] = ()
    """In ascending order, without the owner, who may mint as well."""
    policy_administrators: tuple[Address, ...] = ()
    """In ascending order, without the owner, who may set the policy as well."""
    owner: Address = ZERO_ADDRESS
    pending_owner: Address | None = None
    """The account that was offered the ownership, and has not accepted it."""
    paused: bool = False
    """True if no token can be minted."""

    @property
    def lacks_text(self) -> bool:
        """Return whether there is a policy whose text was not read yet."""
        return self.policy is not None and self.policy.text is None

    @property
    def claim(self) -> Claim:
        """Return what endpoints are compared by."""
        return Claim(self.tag_names, None if self.policy is None else self.policy.hash)

    def tags_of(self, mask: int) -> Iterator[str | int]:
        """Yield a token's tags in ascending order: a name, or the bit's number without one."""
        for index in range(mask.bit_length()):
            if mask >> index & 1:
                yield (self.tag_names[index] if index < len(self.tag_names) else "") or index


def tag_texts(tags: Iterable[str | int]) -> list[str]:
    """Return tags for people: ``#5`` is a bit without a name, and not a tag that is named ``5``."""
    return [f"#{tag}" if isinstance(tag, int) else tag for tag in tags]
