"""TDX quotes for tests, with the collateral to verify them, signed by a root of the tests."""

import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DAY = timedelta(days=1)
_SGX = "1.2.840.113741.1.13.1"
_FMSPC = bytes.fromhex("b0c06f000000")
_SIGNER = b"\xdc" * 32
_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def raw(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a public key as x and y."""
    encoded = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return encoded[1:]


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Return a signature as r and s."""
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def event(name: str, payload: str, register: int = 3, kind: int = 0x08000001) -> dict[str, object]:
    """Return an entry of dstack's event log."""
    digest = hashlib.sha384(
        kind.to_bytes(4, "little") + b":" + name.encode() + b":" + bytes.fromhex(payload)
    ).hexdigest()
    return {"imr": register, "event_type": kind, "digest": digest, "event": name, "event_payload": payload}


def boot(register: int, digest: str) -> dict[str, object]:
    """Return an entry of the firmware's part of the log."""
    return {"imr": register, "event_type": 1, "digest": digest, "event": "", "event_payload": ""}


# -- the processor's extension, in DER -------------------------------------------------------------


def _der(tag: int, content: bytes) -> bytes:
    length = bytes([len(content)]) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes([tag]) + length + content


def _entry(suffix: str, value: bytes) -> bytes:
    oid = x509.ObjectIdentifier(f"{_SGX}.{suffix}")
    return _der(0x30, _oid(oid.dotted_string) + value)


def _oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    content = bytes([40 * first + second])
    for number in rest:
        digits = [number & 127]
        while number := number >> 7:
            digits.append(number & 127 | 128)
        content += bytes(reversed(digits))
    return _der(6, content)


def _sgx_extension() -> bytes:
    tcb = b"".join(_entry(f"2.{i}", _der(2, b"\5")) for i in range(1, 18))
    tcb += _entry("2.18", _der(4, b"\5" * 16))
    entries = _entry("1", _der(4, bytes(16))) + _entry("2", _der(0x30, tcb)) + _entry("3", _der(4, bytes(2)))
    entries += _entry("4", _der(4, _FMSPC)) + _entry("5", _der(10, b"\0"))
    return _der(0x30, entries)


@dataclass
class Authority:
    """The root, and the authorities that it signs: the processors' and the collateral's."""

    root: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    platform: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    processor: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    signing: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    not_after: datetime = NOW + 3650 * DAY
    is_authority: bool = True
    revoked: bool = False
    """True if the processor's certificate is revoked."""
    level: str = "UpToDate"
    """Intel's TCB status of the platform's firmware."""
    module_signer: bytes = bytes(48)
    qe_signer: bytes = _SIGNER

    @cached_property
    def anchor(self) -> bytes:
        """Return the root's certificate (DER)."""
        return self._certificates[2].public_bytes(serialization.Encoding.DER)

    def chain(self) -> bytes:
        """Return the certificate chain (PEM), with the processor's certificate first."""
        return _pem(*self._certificates[:3])

    @cached_property
    def _certificates(self) -> tuple[x509.Certificate, ...]:
        """Return the processor's, its authority's and the root's certificates, and the signer's."""
        pck = self._certificate("PCK", self.processor, "Intel SGX PCK Platform CA", self.platform, ca=False)
        platform = self._certificate(
            "Intel SGX PCK Platform CA", self.platform, "root", self.root, ca=self.is_authority
        )
        root = self._certificate("root", self.root, "root", self.root, ca=True)
        return pck, platform, root, self._certificate("TCB", self.signing, "root", self.root, ca=False)

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        by: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(self.not_after if name == "PCK" else NOW + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if name == "PCK":
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), _sgx_extension())
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(by, hashes.SHA256())

    # -- collateral --------------------------------------------------------------------------------

    def collateral(self, **changes: object) -> str:
        """Return the collateral as dcap-qvl's JSON, with ``changes`` of the TCB info."""
        pck, platform, root, signing = self._certificates
        tcb_info = json.dumps(self._tcb_info() | changes)
        qe_identity = json.dumps(self._qe_identity())
        revoked = [pck.serial_number] if self.revoked else []
        return json.dumps(
            {
                "pck_crl_issuer_chain": _pem(platform, root).decode(),
                "root_ca_crl": _crl("root", self.root, []).hex(),
                "pck_crl": _crl("Intel SGX PCK Platform CA", self.platform, revoked).hex(),
                "tcb_info_issuer_chain": _pem(signing, root).decode(),
                "tcb_info": tcb_info,
                "tcb_info_signature": signed(self.signing, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": _pem(signing, root).decode(),
                "qe_identity": qe_identity,
                "qe_identity_signature": signed(self.signing, qe_identity.encode()).hex(),
            }
        )

    def parsed(self, **changes: object) -> dcap_qvl.QuoteCollateralV3:
        """Return the collateral as an object of dcap-qvl."""
        return dcap_qvl.QuoteCollateralV3.from_json(self.collateral(**changes))

    def _tcb_info(self) -> dict[str, object]:
        module = {
            "mrsigner": self.module_signer.hex(),
            "attributes": "00" * 8,
            "attributesMask": "ff" * 8,
        }
        components = [{"svn": 1}] * 16
        tcb = {"sgxtcbcomponents": components, "pcesvn": 1, "tdxtcbcomponents": [{"svn": 0}] * 16}
        level = {"tcb": tcb, "tcbDate": _date(NOW), "tcbStatus": self.level}
        if self.level != "UpToDate":
            level["advisoryIDs"] = ["INTEL-SA-00001"]
        return {
            "id": "TDX",
            "version": 3,
            "issueDate": _date(NOW - DAY),
            "nextUpdate": _date(NOW + 3650 * DAY),
            "fmspc": _FMSPC.hex(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 17,
            "tdxModule": module,
            "tdxModuleIdentities": [],
            "tcbLevels": [level],
        }

    def _qe_identity(self) -> dict[str, object]:
        return {
            "id": "TD_QE",
            "version": 2,
            "issueDate": _date(NOW - DAY),
            "nextUpdate": _date(NOW + 3650 * DAY),
            "tcbEvaluationDataNumber": 17,
            "miscselect": "00000000",
            "miscselectMask": "ffffffff",
            "attributes": "11" + "00" * 15,
            "attributesMask": "fb" + "ff" * 7 + "00" * 8,
            "mrsigner": self.qe_signer.hex(),
            "isvprodid": 2,
            "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": _date(NOW), "tcbStatus": "UpToDate"}],
        }


def rooted() -> Authority:
    """Return an authority whose root always has the same key."""
    return Authority(root=ec.derive_private_key(7, ec.SECP256R1()))


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def _crl(issuer: str, key: ec.EllipticCurvePrivateKey, revoked: list[int]) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_named(issuer))
        .last_update(NOW - DAY)
        .next_update(NOW + 3650 * DAY)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


KERNEL = "aa" * 48
"""The digest of the kernel in the log of a `Made`."""


@dataclass
class Made:
    """A quote and its parts."""

    report_data: bytes
    authority: Authority = field(default_factory=Authority)
    events: list[dict[str, object]] = field(
        default_factory=lambda: [
            boot(0, "a0" * 48),
            boot(1, KERNEL),
            boot(2, "a2" * 48),
            event("app-id", "11" * 20),
            event("compose-hash", "22" * 32),
            event("instance-id", "33" * 20),
            event("os-image-hash", "44" * 32),
        ]
    )
    debug: bool = False
    qe_debug: bool = False
    version: int = 4
    mr_td: bytes = b"\xd0" * 48
    mr_seam: bytes = b"\x5e" * 48
    mr_signer_seam: bytes = bytes(48)
    key: ec.EllipticCurvePrivateKey = field(default_factory=_key)

    @property
    def event_log(self) -> str:
        return json.dumps(self.events)

    @property
    def registers(self) -> list[bytes]:
        """Return RTMR 0 to 3."""
        found = [bytes(48) for _ in range(4)]
        for entry in self.events:
            register = entry["imr"]
            assert isinstance(register, int)
            digest = bytes.fromhex(str(entry["digest"]))
            found[register] = hashlib.sha384(found[register] + digest).digest()
        return found

    @property
    def expected(self) -> dict[str, list[str]]:
        """Return the expected values, equal to those of the quote."""
        values = {f"rtmr{i}": self.registers[i].hex() for i in range(3)}
        values |= {"mrseam": self.mr_seam.hex(), "mrtd": self.mr_td.hex(), "compose-hash": "22" * 32}
        return {name: [value] for name, value in values.items()}

    def body(self) -> bytes:
        """Return the TD report."""
        attributes = bytes([int(self.debug), 0, 0, 0x10]) + bytes(4)
        head = bytes(16) + self.mr_seam + self.mr_signer_seam + bytes(8) + attributes + bytes(8)
        report = head + self.mr_td + bytes(48 + 48 + 48) + b"".join(self.registers) + self.report_data
        return report if self.version == 4 else report + bytes(64)

    def quote(self) -> bytes:
        """Return the whole quote."""
        header = struct.pack("<HHI", self.version, 2, 0x81) + bytes(4) + _QE_VENDOR + bytes(20)
        body = self.body()
        if self.version == 5:
            body = struct.pack("<HI", 3, len(body)) + body
        auth = b"auth" * 8
        binding = hashlib.sha256(raw(self.key) + auth).digest() + bytes(32)
        qe_report = bytes(48) + bytes([0x11 | 2 * self.qe_debug]) + bytes(15) + bytes(64) + _SIGNER
        qe_report += bytes(96) + struct.pack("<HH", 2, 4) + bytes(60) + binding
        chain = self.authority.chain()
        inner = qe_report + signed(self.authority.processor, qe_report)
        inner += struct.pack("<H", len(auth)) + auth + struct.pack("<HI", 5, len(chain)) + chain
        data = signed(self.key, header + body) + raw(self.key) + struct.pack("<HI", 6, len(inner)) + inner
        return header + body + struct.pack("<I", len(data)) + data
