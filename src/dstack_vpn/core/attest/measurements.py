"""The verdict on an attested machine, from the comparisons that were made and those that were not.

The processor signs a quote, so its registers are correct; but correct registers of an unknown
machine prove nothing. The values in RTMR3's log (app, compose file, OS image, instance) are written
by the running kernel: a modified kernel can write the expected ones. The verdict is therefore
"valid" only if everything below the application was compared as well: the TDX module, the firmware,
the virtual hardware, the kernel and its command line. A missing comparison makes the verdict
"incomplete", a failed one makes it "invalid".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dstack_vpn.core.attest.quote import Measured
from dstack_vpn.errors import FormatError

REGISTER: Final = 48
"""Bytes of a register of TDX (SHA-384)."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured value that can be compared."""

    name: str
    """The name in options and documents."""
    label: str
    length: int = REGISTER
    """Bytes."""
    needed: bool = False
    """The verdict is not "valid" without a comparison of this one."""
    event: str | None = None
    """The event of RTMR3's log that contains it; None: the quote itself contains it."""


MEASUREMENTS: Final = (
    Measurement("mrseam", "TDX module (MRSEAM)", needed=True),
    Measurement("mrsignerseam", "signer of the TDX module (MRSIGNERSEAM)"),
    Measurement("mrtd", "firmware (MRTD)", needed=True),
    Measurement("mrconfigid", "configuration given by the host (MRCONFIGID)"),
    Measurement("mrowner", "owner given by the host (MROWNER)"),
    Measurement("mrownerconfig", "owner's configuration given by the host (MROWNERCONFIG)"),
    Measurement("rtmr0", "virtual hardware (RTMR0)", needed=True),
    Measurement("rtmr1", "kernel (RTMR1)", needed=True),
    Measurement("rtmr2", "kernel command line and initrd (RTMR2)", needed=True),
    Measurement("rtmr3", "application (RTMR3)"),
    Measurement("os-image-hash", "OS image, as its kernel states it", 32, event="os-image-hash"),
    Measurement("compose-hash", "compose file", 32, event="compose-hash"),
    Measurement("app-id", "app id", 20, event="app-id"),
    Measurement("instance-id", "instance id", 20, event="instance-id"),
)
BY_NAME: Final = {measurement.name: measurement for measurement in MEASUREMENTS}
APPLICATION: Final = frozenset({"compose-hash", "rtmr3"})
"""Either of them identifies the application."""


class Verdict(StrEnum):
    """The result of all comparisons."""

    VALID = "valid"
    INCOMPLETE = "incomplete"
    """No comparison failed, but a needed one is missing."""
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class RegisterCheck:
    """A comparison; without a ``problem`` it succeeded."""

    name: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A missing comparison; with a ``needed`` one missing, the verdict is not "valid"."""

    name: str
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """The comparisons, the gaps, and the measured values by name (lower-case hexadecimal)."""

    checks: tuple[RegisterCheck, ...]
    gaps: tuple[Gap, ...]
    measurements: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict that follows from the comparisons and gaps."""
        if any(check.problem for check in self.checks):
            return Verdict.INVALID
        return Verdict.INCOMPLETE if any(gap.needed for gap in self.gaps) else Verdict.VALID

    @property
    def valid(self) -> bool:
        """Return whether all needed comparisons were made and none failed."""
        return self.verdict is Verdict.VALID


@dataclass(frozen=True, slots=True)
class Expected:
    """The values that a measurement may have, by its name."""

    values: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, texts: Mapping[str, Sequence[str]]) -> "Expected":
        """Read hexadecimal texts, in any case and with or without 0x; raises `FormatError`."""
        found = {}
        for name, alternatives in texts.items():
            if name not in BY_NAME:
                raise FormatError(f"{name[:40]!r} can't be expected; expected one of {', '.join(BY_NAME)}")
            if alternatives:
                found[name] = frozenset(_digits(BY_NAME[name], text) for text in alternatives)
        return cls(found)


def _digits(measurement: Measurement, text: str) -> str:
    digits = text.strip().lower().removeprefix("0x")
    try:
        right = len(bytes.fromhex(digits)) == measurement.length and " " not in digits
    except ValueError:
        right = False
    if not right:
        raise FormatError(f"{measurement.name}: expected {2 * measurement.length} hexadecimal digits")
    return digits


def measured(registers: Mapping[str, bytes], log: Measured | None) -> dict[str, str]:
    """Return all values of a quote and its log by name; without a log if it does not replay."""
    found = {name: value.hex() for name, value in registers.items()}
    for measurement in MEASUREMENTS if log is not None else ():
        if measurement.event is not None and log is not None:
            value = log.value(measurement.event)
            if value is not None:
                found[measurement.name] = value
    return found


def compare(values: Mapping[str, str], expected: Expected) -> tuple[list[RegisterCheck], list[Gap]]:
    """Compare the measured values with the expected ones; the rest are gaps."""
    checks, gaps = [], []
    application = any(name in expected.values for name in APPLICATION)
    for measurement in MEASUREMENTS:
        wanted = expected.values.get(measurement.name)
        if wanted is None:
            needed = measurement.needed or (measurement.name == "compose-hash" and not application)
            gaps.append(Gap(measurement.label, needed))
        else:
            has = values.get(measurement.name)
            problem = None if has in wanted else f"it is {has or 'not measured'}"
            checks.append(RegisterCheck(measurement.label, problem))
    return checks, gaps
