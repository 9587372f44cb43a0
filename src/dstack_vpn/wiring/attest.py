"""The verification of quotes, for `attest verify`. Importing it needs the extra ``attest``."""

from collections.abc import Sequence

from dstack_vpn.adapters.attest import collateral as collaterals
from dstack_vpn.adapters.attest.verify import LEVELS, UP_TO_DATE, Judgement, decode, verify
from dstack_vpn.adapters.clock import SystemClock

__all__ = ["LEVELS", "Judgement", "decode", "judgement", "verify"]


def judgement(quote: bytes, collateral: str | None, pccs: str | None, accept: Sequence[str]) -> Judgement:
    """Return the criteria for a quote, with a collateral from a text, from a PCCS, or without one.

    ``accept`` are TCB levels in addition to "up to date". Raises errors of reading the collateral.
    """
    found = None
    if collateral is not None:
        found = collaterals.parse(collateral)
    elif pccs is not None:
        found = collaterals.fetch(pccs, quote)
    return Judgement(found, SystemClock().now(), (UP_TO_DATE, *accept))
