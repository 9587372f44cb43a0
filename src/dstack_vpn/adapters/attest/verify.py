"""Checks a node's attestation as far as it can be done without asking anybody.

What is checked: the quote's form and its ECDSA signatures, from the machine's report over the quoting
enclave's to the processor's certificate (PCK), and from there to Intel's root, whose key is below; that the
report data is that of the public key; that the event log replays to the registers; and what one asks of the
measurements.

What is not: whether Intel has revoked a certificate or calls the processor's firmware outdated (TCB level),
and whether the quoting enclave is the one that Intel names (QE identity). All three need Intel's signed
collateral of the day. Nor does a quote say when it was made: that the node has the key *now* is shown by a
WireGuard handshake.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from dstack_vpn.core.attestation import REGISTERS, Measured, replay, report_data
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.tdx import Quote
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import Certificate

INTEL_ROOT: Final = bytes.fromhex(
    "040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
"""The key of the "Intel SGX Root CA" (certificates.trustedservices.intel.com), a point of P-256."""
UNCHECKED: Final = (
    "whether Intel has revoked a certificate of the chain",
    "whether the processor's firmware is up to date (TCB level)",
    "whether the quoting enclave is the one that Intel names (QE identity)",
    "when the quote was made: a WireGuard handshake shows that the node has the key now",
)
_MOST_CERTIFICATES: Final = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked; ``problem`` says what is wrong with it."""

    name: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the measurements must be, in lower-case hexadecimal; None: anything."""

    compose_hash: str | None = None
    app_id: str | None = None
    instance_id: str | None = None
    mr_td: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Every check, and what the quote measures."""

    checks: tuple[Check, ...]
    measurements: dict[str, str]

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong."""
        return not any(check.problem for check in self.checks)


def verify(
    quote_hex: str,
    event_log: str,
    key: PublicKey,
    *,
    expected: Expected,
    now: datetime,
    root: bytes = INTEL_ROOT,
) -> Finding:
    """Check a quote over a WireGuard public key; raises `FormatError` where it is none."""
    try:
        quote = Quote.parse(bytes.fromhex(quote_hex.removeprefix("0x")))
    except FormatError:
        raise
    except ValueError:
        raise FormatError("quote: expected hexadecimal") from None
    checks = [
        _check("the report data binds the public key", lambda: _bound(quote, key)),
        _check("the quote is signed by its attestation key", lambda: _signed_by_key(quote)),
        _check("the quoting enclave's report binds that key", lambda: _key_bound(quote)),
        _check("the processor's certificate signs that report", lambda: _signed_by_processor(quote)),
        _check("Intel's root certifies the processor", lambda: _certified(quote, now, root)),
        _check("the host can't look into the machine", lambda: _no_debug(quote)),
    ]
    measured: list[Measured] = []
    checks.append(
        _check("the event log replays to the registers", lambda: measured.append(_replayed(quote, event_log)))
    )
    log = measured[0] if measured else None
    checks += _compared(quote, log, expected)
    return Finding(tuple(checks), _measurements(quote, log))


def _check(name: str, work: Callable[[], object]) -> Check:
    try:
        work()
    except FormatError as error:
        return Check(name, str(error))
    return Check(name)


# -- the machine's own words --------------------------------------------------------------------------


def _bound(quote: Quote, key: PublicKey) -> None:
    if quote.report.report_data != report_data(key):
        raise FormatError("it is of another key, or was made for something else")


def _no_debug(quote: Quote) -> None:
    if quote.report.debug:
        raise FormatError("it runs in debug mode")


def _replayed(quote: Quote, event_log: str) -> Measured:
    measured = replay(event_log)
    for register in range(REGISTERS):
        if measured.registers[register] != quote.report.rtmr[register]:
            raise FormatError(f"register {register} is not what the log comes to")
    return measured


def _compared(quote: Quote, log: Measured | None, expected: Expected) -> list[Check]:
    found = [
        ("compose hash", expected.compose_hash, None if log is None else log.value("compose-hash")),
        ("app id", expected.app_id, None if log is None else log.value("app-id")),
        ("instance id", expected.instance_id, None if log is None else log.value("instance-id")),
        ("firmware (MRTD)", expected.mr_td, quote.report.mr_td.hex()),
    ]
    return [
        Check(f"the {name} is as expected", None if has == wanted else f"it is {has or 'not measured'}")
        for name, wanted, has in found
        if wanted is not None
    ]


def _measurements(quote: Quote, log: Measured | None) -> dict[str, str]:
    shown = {"tdx module (MRSEAM)": quote.report.mr_seam.hex(), "firmware (MRTD)": quote.report.mr_td.hex()}
    shown |= {f"RTMR{i}": value.hex() for i, value in enumerate(quote.report.rtmr)}
    for name in () if log is None else ("app-id", "compose-hash", "instance-id"):
        assert log is not None
        if (value := log.value(name)) is not None:
            shown[name] = value
    return shown


# -- signatures ---------------------------------------------------------------------------------------


def _point(raw: bytes) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError:
        raise FormatError("the key is no point of P-256") from None


def _signed(key: "EllipticCurvePublicKey", signature: bytes, data: bytes) -> None:
    """Check a signature of r and s, 32 bytes each; raises `FormatError`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(utils.encode_dss_signature(*numbers), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise FormatError("the signature is not right") from None


def _signed_by_key(quote: Quote) -> None:
    _signed(_point(quote.attestation_key), quote.signature, quote.signed)


def _key_bound(quote: Quote) -> None:
    digest = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest()
    if quote.qe_report_data != digest + bytes(32):
        raise FormatError("it speaks of another key")


def _signed_by_processor(quote: Quote) -> None:
    _signed(_key_of(_chain(quote)[0]), quote.qe_signature, quote.qe_report)


def _certified(quote: Quote, now: datetime, root: bytes) -> None:
    """Each certificate is valid now and signed by the next, and the last one's key is the root's."""
    from cryptography.hazmat.primitives import serialization

    chain = _chain(quote)
    for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        with _legible("a certificate's dates can't be read"):
            valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
        if not valid:
            raise FormatError("a certificate is not valid now")
        _issued(certificate, issuer)
    raw = _key_of(chain[-1]).public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    if raw != root:
        raise FormatError("the chain does not end at Intel's root")


def _issued(certificate: "Certificate", issuer: "Certificate") -> None:
    from cryptography.x509 import BasicConstraints

    with _legible("a certificate is not issued by the next one"):
        certificate.verify_directly_issued_by(issuer)
        is_authority = issuer.extensions.get_extension_for_class(BasicConstraints).value.ca
    if not is_authority:
        raise FormatError("a certificate is issued by one that is no authority's")


@contextmanager
def _legible(problem: str) -> Iterator[None]:
    """Whatever a certificate of anybody's making can bring up in cryptography becomes a `FormatError`."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.utils import CryptographyDeprecationWarning
    from cryptography.x509 import (
        DuplicateExtension,
        ExtensionNotFound,
        InvalidVersion,
        UnsupportedGeneralNameType,
    )

    try:
        with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
            yield
    except (
        *(InvalidSignature, UnsupportedAlgorithm, InvalidVersion, DuplicateExtension, ExtensionNotFound),
        *(UnsupportedGeneralNameType, CryptographyDeprecationWarning, ValueError, TypeError),
    ):
        raise FormatError(problem) from None


def _chain(quote: Quote) -> Sequence["Certificate"]:
    from cryptography import x509

    with _legible("its certificates can't be read"):
        chain = x509.load_pem_x509_certificates(quote.certificates)
    if not 2 <= len(chain) <= _MOST_CERTIFICATES:
        raise FormatError("expected a chain of certificates")
    return chain


def _key_of(certificate: "Certificate") -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    with _legible("a certificate's key can't be read"):
        key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FormatError("a certificate's key is not one of an elliptic curve")
    return key
