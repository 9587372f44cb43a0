"""Intel's collateral: what is needed to judge a quote, signed by Intel for some weeks.

It holds the revocation lists, the levels of the platform's firmware (TCB) and the identity of the quoting
enclave. It comes from a file, or from a provisioning certificate caching service (PCCS) that the operator
names. All of it is signed, so a service can withhold it, or give an older one that is still in force.
"""

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dstack_vpn.adapters.attest.library import library
from dstack_vpn.errors import FormatError, TryAgainError

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

DEADLINE: Final = 30.0
"""Seconds for all of a service's answers."""
_LONGEST: Final = 4 << 20
_EXAMPLE: Final = "PCCS: expected a URL such as https://pccs.example:8081"


def parse(text: str) -> "QuoteCollateralV3":
    """Read the JSON form that dcap-qvl writes; raises `FormatError`."""
    if len(text) > _LONGEST:
        raise FormatError("collateral: longer than 4 MiB")
    try:
        return library().QuoteCollateralV3.from_json(text)
    except ValueError as error:
        raise FormatError(
            f"collateral: expected the JSON of dcap-qvl's QuoteCollateralV3.to_json ({_line(error)})"
        ) from error


def fetch(url: str, quote: bytes, *, deadline: float = DEADLINE) -> "QuoteCollateralV3":
    """Ask a PCCS for the collateral of a quote.

    Raises `FormatError` if the URL is not one, and `TryAgainError` if the service does not give it.
    """
    host = _host(url)
    qvl = library()

    async def ask() -> "QuoteCollateralV3":
        async with asyncio.timeout(deadline):
            return await qvl.get_collateral(url, quote)

    try:
        return asyncio.run(ask())
    except TimeoutError as error:
        raise TryAgainError(f"the PCCS at {host} did not answer within {deadline:g} s") from error
    except (ValueError, RuntimeError) as error:
        problem = _line(error).replace(url.rstrip("/"), host)
        raise TryAgainError(f"the PCCS at {host} gives no collateral: {problem}") from error


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        raise FormatError(_EXAMPLE) from None
    if not usable:
        raise FormatError(_EXAMPLE)
    if "@" in parts.netloc:
        raise FormatError("PCCS: expected a URL without a user name and password")
    return parts.netloc


def _line(error: Exception) -> str:
    """The error in one line; dcap-qvl prints causes below each other."""
    return " ".join(str(error).split())[:300]
