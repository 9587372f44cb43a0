"""Intel's collateral for the verification of a quote, signed by Intel for some weeks.

It contains the revocation lists, the levels of the platform's firmware (TCB) and the identity of
the quoting enclave. It comes from a file, or from a configured provisioning certificate caching
service (PCCS). All of it is signed, so a service can only withhold it, or return an older one that
is still valid.
"""

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dstack_vpn.adapters.attest.library import library
from dstack_vpn.errors import FormatError, TryAgainError

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

DEADLINE: Final = 30.0
"""Seconds for all replies of a service."""
_LONGEST: Final = 4 << 20
_EXAMPLE: Final = "PCCS: expected a URL such as https://pccs.example:8081"


def parse(text: str) -> "QuoteCollateralV3":
    """Parse the JSON form that dcap-qvl writes. Raises `FormatError`."""
    if len(text) > _LONGEST:
        raise FormatError("collateral: longer than 4 MiB")
    try:
        return library().QuoteCollateralV3.from_json(text)
    except ValueError as error:
        raise FormatError(
            f"collateral: expected the JSON of dcap-qvl's QuoteCollateralV3.to_json ({_line(error)})"
        ) from error


def fetch(url: str, quote: bytes, *, deadline: float = DEADLINE) -> "QuoteCollateralV3":
    """Return the collateral of a quote from a PCCS.

    Raises `FormatError` if the URL is invalid, and `TryAgainError` if the service does not return
    the collateral.
    """
    host = _host(url)
    qvl = library()

    async def ask() -> "QuoteCollateralV3":
        async with asyncio.timeout(deadline):
            return await qvl.get_collateral(url, quote)

    try:
        return asyncio.run(ask())
    except TimeoutError as error:
        raise TryAgainError(f"the PCCS at {host} did not reply within {deadline:g} s") from error
    except (ValueError, RuntimeError) as error:
        problem = _line(error).replace(url.rstrip("/"), host)
        raise TryAgainError(f"the PCCS at {host} returned no collateral: {problem}") from error


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
    """Return the error in one line. dcap-qvl prints causes on separate lines."""
    return " ".join(str(error).split())[:300]
