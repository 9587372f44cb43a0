"""Names of tags, and the checks before one is defined or given to a node."""

from collections.abc import Sequence

from dstack_vpn.core.chain.contract import MAX_TAGS
from dstack_vpn.core.chain.invitation import check_label
from dstack_vpn.core.chain.invitation_facts import tag_mask
from dstack_vpn.errors import FormatError


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of tags; raises `FormatError` for a duplicate and for a malformed name."""
    for name in names:
        check_label(name, "tag")
        if names.count(name) > 1:
            raise FormatError(f"tag: {name} is given twice: keep one")
    return tuple(names)


def check_definitions(names: Sequence[str], defined: Sequence[str | None]) -> None:
    """Check tags to be defined; raises `FormatError` if one exists, or if there are too many."""
    for name in names:
        if name in defined:
            raise FormatError(
                f"tag: {name} is defined already, as number {defined.index(name)}: leave it out"
            )
    if len(defined) + len(names) > MAX_TAGS:
        raise FormatError(
            f"tag: the registry has {len(defined)} of at most {MAX_TAGS} tags, so {len(names)} more can't be "
            "defined: leave some out"
        )


def mask_of(names: Sequence[str], defined: Sequence[str | None]) -> int:
    """Return the bits of tags; raises `FormatError` for one that is not defined."""
    try:
        return tag_mask(tuple(names), tuple(defined))
    except LookupError as error:
        known = ", ".join(name for name in defined if name is not None) or "none"
        raise FormatError(
            f"tag: the registry does not define {error.args[0]} (defined: {known}): use 'tag define' first"
        ) from error
