"""An Intel TDX quote, versions 4 and 5, taken apart (Intel TDX DCAP Quoting Library API, appendix A.3).

All of it is little endian and of fixed lengths but for the signature data. Nothing is checked here but the
form: `adapters.attest` checks signatures.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from dstack_vpn.errors import FormatError

_TDX: Final = 0x81
_ECDSA_P256: Final = 2
_HEADER: Final = 48
_BODY_10: Final = 584
_BODY_15: Final = 648
_QE_REPORT: Final = 384
_CERTIFIED_QE: Final = 6
_PCK_CHAIN: Final = 5
_LONGEST: Final = 1 << 20
_DEBUG: Final = 1
"""Bit 0 of the attributes: the host can read such a machine's memory."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next bytes; raises `FormatError` where there are fewer."""
        if count < 0 or len(self._data) - self.at < count:
            raise FormatError("quote: it ends too soon")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, size: int) -> int:
        """The next unsigned number of that many bytes."""
        return int.from_bytes(self.take(size), "little")

    @property
    def rest(self) -> bytes:
        """What is left."""
        return self._data[self.at :]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured: a trust domain's report."""

    mr_seam: bytes
    """The TDX module."""
    attributes: bytes
    mr_td: bytes
    """The firmware that the machine began with."""
    mr_config_id: bytes
    rtmr: tuple[bytes, ...]
    """Run-time registers: firmware, kernel, initrd and command line, and what dstack launched."""
    report_data: bytes
    """64 bytes of the machine's own."""

    @property
    def debug(self) -> bool:
        """Whether the host can look into the machine."""
        return bool(self.attributes[0] & _DEBUG)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Take a TD report of 584 or 648 bytes apart."""
        reader = _Reader(body)
        reader.take(16)
        mr_seam = reader.take(48)
        reader.take(48 + 8)
        attributes = reader.take(8)
        reader.take(8)
        mr_td, mr_config_id = reader.take(48), reader.take(48)
        reader.take(48 + 48)
        rtmr = tuple(reader.take(48) for _ in range(4))
        return cls(mr_seam, attributes, mr_td, mr_config_id, rtmr, reader.take(64))


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote and what vouches for it, from the machine up to the processor's certificate."""

    version: int
    report: Report
    signed: bytes
    """Header and report: what the attestation key has signed."""
    signature: bytes
    """ECDSA, r and s, 32 bytes each."""
    attestation_key: bytes
    """A point of P-256, x and y, 32 bytes each."""
    qe_report: bytes
    """The quoting enclave's report, whose data binds the attestation key."""
    qe_signature: bytes
    """By the processor's certificate (PCK)."""
    qe_auth: bytes
    certificates: bytes
    """PEM: the processor's certificate first, then those above it."""

    @property
    def qe_report_data(self) -> bytes:
        """64 bytes."""
        return self.qe_report[-64:]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Take a quote apart; raises `FormatError`."""
        if len(data) > _LONGEST:
            raise FormatError("quote: it is too long")
        reader = _Reader(data)
        version, key_type, tee = struct.unpack_from("<HHI", reader.take(_HEADER))
        if version not in {4, 5} or tee != _TDX or key_type != _ECDSA_P256:
            raise FormatError("quote: expected one of TDX, version 4 or 5, signed with ECDSA P-256")
        length = _BODY_10
        if version == 5:
            kind, length = reader.number(2), reader.number(4)
            if (kind, length) not in {(2, _BODY_10), (3, _BODY_15)}:
                raise FormatError("quote: expected a TD report of TDX 1.0 or 1.5")
        report = Report.parse(reader.take(length))
        signed = data[: reader.at]
        return cls(version, report, signed, *_signature_data(_Reader(reader.take(reader.number(4)))))


def _signature_data(reader: _Reader) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    signature, key = reader.take(64), reader.take(64)
    if reader.number(2) != _CERTIFIED_QE:
        raise FormatError("quote: the quoting enclave is not certified by its report")
    inner = _Reader(reader.take(reader.number(4)))
    report, qe_signature = inner.take(_QE_REPORT), inner.take(64)
    auth = inner.take(inner.number(2))
    if inner.number(2) != _PCK_CHAIN:
        raise FormatError("quote: expected the chain of the processor's certificate in it")
    return signature, key, report, qe_signature, auth, inner.take(inner.number(4)).rstrip(b"\0")
