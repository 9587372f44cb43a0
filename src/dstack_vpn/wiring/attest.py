"""The verification of quotes, for `attest verify`. Importing it needs the extra ``attest``."""

from collections.abc import Sequence

from dstack_vpn.adapters.attest import collateral as collaterals
from dstack_vpn.adapters.attest.verify import LEVELS, UP_TO_DATE, Judgement, decode, verify
from dstack_vpn.adapters.clock import SystemClock

__all__ = ["LEVELS", "Judgement", "decode", "judgement", "verify"]


def judgement(quote: bytes, collateral: str | None, pccs: str | None, accept: Sequence[str]) -> Judgement:
    """Return how a quote is to be judged: by a collateral's text, or by that of a PCCS, or by neither.

    ``accept`` are TCB levels besides "up to date". Raises what reading the collateral raises.
    """
    found = None
    if collateral is not None:
        found = collaterals.parse(collateral)
    elif pccs is not None:
        found = collaterals.fetch(pccs, quote)
    return Judgement(found, SystemClock().now(), (UP_TO_DATE, *accept))
