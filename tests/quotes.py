"""TDX quotes made for tests: complete, and signed by a chain of certificates of our own, not Intel's."""

import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DAY = timedelta(days=1)


def raw(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A public key as x and y."""
    encoded = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return encoded[1:]


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """A signature as r and s."""
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def event(name: str, payload: str, register: int = 3, kind: int = 0x08000001) -> dict[str, object]:
    """An entry of dstack's event log."""
    digest = hashlib.sha384(
        kind.to_bytes(4, "little") + b":" + name.encode() + b":" + bytes.fromhex(payload)
    ).hexdigest()
    return {"imr": register, "event_type": kind, "digest": digest, "event": name, "event_payload": payload}


@dataclass
class Authority:
    """Who certifies processors."""

    root: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    processor: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    not_after: datetime = NOW + 365 * DAY
    is_authority: bool = True

    @property
    def anchor(self) -> bytes:
        """The root's key as `adapters.attest.verify` takes it."""
        return b"\x04" + raw(self.root)

    def chain(self) -> bytes:
        """PEM, the processor's first."""
        pck = self._certificate("PCK", self.processor, ca=False)
        root = self._certificate("root", self.root, ca=self.is_authority)
        return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (pck, root))

    def _certificate(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.root, hashes.SHA256())
        )


@dataclass
class Made:
    """A quote, and what it is made of."""

    report_data: bytes
    authority: Authority = field(default_factory=Authority)
    events: list[dict[str, object]] = field(
        default_factory=lambda: [
            event("app-id", "11" * 20),
            event("compose-hash", "22" * 32),
            event("instance-id", "33" * 20),
        ]
    )
    debug: bool = False
    version: int = 4
    mr_td: bytes = b"\xd0" * 48
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def event_log(self) -> str:
        return json.dumps(self.events)

    def body(self) -> bytes:
        """The TD report."""
        registers = [bytes(48) for _ in range(4)]
        for entry in self.events:
            register = entry["imr"]
            assert isinstance(register, int)
            digest = bytes.fromhex(str(entry["digest"]))
            registers[register] = hashlib.sha384(registers[register] + digest).digest()
        attributes = bytes([int(self.debug)]) + bytes(7)
        head = bytes(16) + b"\x5e" * 48 + bytes(48 + 8) + attributes + bytes(8)
        report = head + self.mr_td + bytes(48 + 48 + 48) + b"".join(registers) + self.report_data
        return report if self.version == 4 else report + bytes(64)

    def quote(self) -> bytes:
        """All of it."""
        header = struct.pack("<HHI", self.version, 2, 0x81) + bytes(40)
        body = self.body()
        if self.version == 5:
            body = struct.pack("<HI", 3, len(body)) + body
        auth = b"auth"
        qe_report = bytes(320) + hashlib.sha256(raw(self.key) + auth).digest() + bytes(32)
        chain = self.authority.chain()
        inner = qe_report + signed(self.authority.processor, qe_report)
        inner += struct.pack("<H", len(auth)) + auth + struct.pack("<HI", 5, len(chain)) + chain
        data = signed(self.key, header + body) + raw(self.key) + struct.pack("<HI", 6, len(inner)) + inner
        return header + body + struct.pack("<I", len(data)) + data
