"""Verification of a node's attestation with dcap-qvl, and comparison of its measurements.

dcap-qvl checks the quote against Intel's collateral: the signatures, from the machine's report over
the quoting enclave's to Intel's root; that no certificate is revoked; that the quoting enclave is
Intel's and not in debug mode; that Intel signed the TDX module; and how current the platform's
firmware is. This module checks that the report data binds the public key and that the event log
replays to the registers, and compares the measurements with expected ones
(`core.attest.measurements`).

A quote does not contain its time. A WireGuard handshake shows that the node has the key now.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dstack_vpn.adapters.attest.library import library
from dstack_vpn.core.attest.measurements import Expected, Finding, Gap, RegisterCheck, compare, measured
from dstack_vpn.core.attest.quote import REGISTERS, Measured, replay, report_data
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

UP_TO_DATE: Final = "UpToDate"
LEVELS: Final = (
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
"""Intel's levels of how current a platform's firmware is (TCB status). A revoked one is never
accepted."""
GENUINE: Final = "the quote is genuine: signatures, revocation, quoting enclave, TDX module's signer"
CURRENT: Final = "the platform's firmware is current (TCB level)"
ALWAYS: Final = (Gap("when the quote was made: a WireGuard handshake shows that the node has the key now"),)
_DEBUG: Final = 1
"""Bit 0 of a trust domain's attributes. If it is set, the host can read its memory."""
_LONGEST: Final = 1 << 20
_FIELDS: Final = {
    "mrseam": "mr_seam",
    "mrsignerseam": "mr_signer_seam",
    "mrtd": "mr_td",
    "mrconfigid": "mr_config_id",
    "mrowner": "mr_owner",
    "mrownerconfig": "mr_owner_config",
} | {f"rtmr{i}": f"rt_mr{i}" for i in range(REGISTERS)}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The criteria for a quote."""

    collateral: "QuoteCollateralV3 | None"
    now: float
    """Unix seconds. Certificates, lists and levels must be valid at this time."""
    accepted: Collection[str] = (UP_TO_DATE,)
    """The accepted TCB levels."""
    root: bytes | None = None
    """The root certificate (DER). None: Intel's."""


def decode(quote_hex: str) -> bytes:
    """Return the quote's bytes. Raises `FormatError`."""
    if len(quote_hex) > 2 * _LONGEST:
        raise FormatError("quote: longer than 1 MiB")
    try:
        return bytes.fromhex(quote_hex.removeprefix("0x"))
    except ValueError:
        raise FormatError("quote: expected hexadecimal") from None


def verify(
    quote: bytes, event_log: str, key: PublicKey | None, *, expected: Expected, by: Judgement
) -> Finding:
    """Verify a quote over a WireGuard public key.

    Without a ``key`` it is not compared, and the result is incomplete. Raises `FormatError` if the
    bytes are not a TDX quote.
    """
    report = report_of(quote)
    checks, gaps = _genuine(quote, by)
    if key is None:
        gaps.append(Gap("the public key: pass the one from the registry", needed=True))
    else:
        checks.append(_check("the report data binds the public key", lambda: _bound(report, key))[0])
    checks.append(_check("the host can't read the machine's memory (debug)", lambda: _no_debug(report))[0])
    registers = {name: bytes(getattr(report, field)) for name, field in _FIELDS.items()}
    replays, log = _check("the event log replays to the registers", lambda: _replayed(registers, event_log))
    values = measured(registers, log)
    compared, missing = compare(values, expected)
    return Finding((*checks, replays, *compared), (*gaps, *missing, *ALWAYS), values)


def report_of(quote: bytes) -> Any:  # noqa: ANN401 - one of dcap-qvl's report classes
    """Return the trust domain's report in a quote. Raises `FormatError`."""
    try:
        parsed = library().parse_quote(quote)
    except ValueError as error:
        raise FormatError("quote: expected a TDX quote, version 4 or 5") from error
    if not parsed.is_tdx() or not hasattr(parsed.report, "rt_mr0"):
        raise FormatError("quote: expected a TDX quote, not an SGX quote")
    return parsed.report


def _check(name: str, work: Callable[[], _T]) -> tuple[RegisterCheck, _T | None]:
    try:
        return RegisterCheck(name), work()
    except FormatError as error:
        return RegisterCheck(name, str(error)), None


def _genuine(quote: bytes, by: Judgement) -> tuple[list[RegisterCheck], list[Gap]]:
    if by.collateral is None:
        return [], [Gap(f"{name}: pass Intel's collateral", needed=True) for name in (GENUINE, CURRENT)]
    check, verified = _check(GENUINE, lambda: _verified(quote, by))
    if verified is None:
        return [check], []
    level, advisories = verified
    problem = None
    if level not in by.accepted:
        known = f", see {', '.join(advisories)}" if advisories else ""
        problem = f"Intel's level is {level}{known}; --accept-tcb {level} accepts it"
    return [check, RegisterCheck(CURRENT, problem)], []


def _verified(quote: bytes, by: Judgement) -> tuple[str, list[str]]:
    """Return the TCB level and Intel's advisories.

    Raises `FormatError` if the quote is not genuine.
    """
    qvl, now = library(), int(by.now)
    try:
        if by.root is None:
            report = qvl.verify(quote, by.collateral, now)
        else:
            report = qvl.verify_with_root_ca(quote, by.collateral, by.root, now)
    except ValueError as error:
        text = " ".join(str(error).removeprefix("Verification failed: ").split())
        raise FormatError(text[:300]) from error
    return report.status, list(report.advisory_ids)


def _bound(report: Any, key: PublicKey) -> None:  # noqa: ANN401 - see `report_of`
    if bytes(report.report_data) != report_data(key):
        raise FormatError("it has another key, or was made for another purpose")


def _no_debug(report: Any) -> None:  # noqa: ANN401 - see `report_of`
    if report.td_attributes[0] & _DEBUG:
        raise FormatError("it runs in debug mode")


def _replayed(registers: dict[str, bytes], event_log: str) -> Measured:
    log = replay(event_log)
    for register in range(REGISTERS):
        if log.registers[register] != registers[f"rtmr{register}"]:
            raise FormatError(f"register {register} differs from the replayed log")
    return log
