"""The certificate of a TLS relay: from files, self-signed, or from the dstack guest agent.

Changed files are loaded again. An invalid certificate never replaces a valid one: the previous
certificate stays in use, the log reports the problem once, and health reports it until it is fixed.
"""

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.keys.guest_agent import GuestAgent
from dstack_vpn.adapters.relay import tls
from dstack_vpn.adapters.store.private import write_private
from dstack_vpn.core.paths.relay_url import DSTACK, Listen
from dstack_vpn.errors import AgentError, RelayError

_log = structlog.get_logger(component="relay")

SELF_MADE: Final = "relay-certificate.pem"
"""The file in the state directory with the self-signed certificate and its key."""
VALID: Final = timedelta(days=3650)
LOOK: Final = 1.0
"""Seconds between checks of the files for changes."""
_NAME: Final = "dstack-vpn relay"
_DATE: Final = "%Y-%m-%d %H:%M"


class Certificates:
    """Performs TLS handshakes with clients; implements `tcp2udp.Secure`."""

    def __init__(self, cert: Path, key: Path | None, name: str) -> None:
        """Load the files; raises `RelayError`, which names the invalid file."""
        self._cert, self._key, self._name = cert, key, name
        self._seen = self._stamp()
        self._looked = time.monotonic()
        self._refused: tuple[object, str] | None = None
        """The stamp of the files that were not loaded, and the reason."""
        self._context, self.pin, self._valid = self._load()
        if problem := self.problem:
            _log.warning("relay.certificate_invalid", problem=problem)

    @classmethod
    async def load(cls, listen: Listen, state_dir: Path, guest_agent: str | None) -> "Certificates":
        """Load or create the certificate that a URL specifies; raises `RelayError`."""
        if listen.cert == DSTACK:
            path = await _from_guest_agent(guest_agent, state_dir)
        elif listen.cert is not None:
            return cls(Path(listen.cert), None if listen.key is None else Path(listen.key), listen.name)
        else:
            path = _self_made(state_dir)
        return cls(path, None, listen.name)

    async def __call__(self, connection: socket.socket, timeout: float) -> tls.TlsStream:
        """Perform the handshake; raises `RelayError`, after closing the connection."""
        self._look()
        secured = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        try:
            await tls.handshake(secured, timeout)
        except (ssl.SSLError, OSError) as error:
            secured.close()
            raise RelayError(f"{self._name}: {tls.explain(error)}") from error
        except BaseException:
            secured.close()
            raise
        return tls.TlsStream(secured)

    @property
    def problem(self) -> str | None:
        """The problem of the certificate in use, or of a replacement that failed."""
        if self._refused is not None:
            return self._refused[1]
        return self._invalid(self._valid)

    # -- files -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Load the files again if they have changed; keep the certificate if they are invalid."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        stamp: object = None
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                self._refused = None
                return
            context, pin, valid = self._load()
        except RelayError as error:
            self._refuse(stamp, str(error))
            return
        invalid = self._invalid(valid)
        if invalid is not None and self._invalid(self._valid) is None:
            self._refuse(stamp, f"{invalid}; the previous certificate stays in use")
            return
        self._seen, self._refused = stamp, None
        self._context, self.pin, self._valid = context, pin, valid
        _log.info("relay.certificate_loaded", pin=self.pin)

    def _refuse(self, stamp: object, problem: str) -> None:
        if self._refused != (stamp, problem):
            self._refused = (stamp, problem)
            _log.error("relay.certificate_refused", problem=problem)

    def _invalid(self, valid: tuple[datetime, datetime]) -> str | None:
        """Return the reason that a certificate is not valid now; None if it is valid."""
        now, name = datetime.fromtimestamp(SystemClock().now(), UTC), f"{self._name}: {self._cert}"
        if now < valid[0]:
            return f"{name}: the certificate is not valid before {valid[0]:{_DATE}} UTC"
        if now > valid[1]:
            return f"{name}: the certificate expired on {valid[1]:{_DATE}} UTC"
        return None

    def _stamp(self) -> object:
        found = []
        for path in filter(None, (self._cert, self._key)):
            try:
                status = path.stat()
            except OSError as error:
                raise self._problem(path, error) from error
            found.append((status.st_mtime_ns, status.st_ino))
        return found

    def _load(self) -> tuple[ssl.SSLContext, str, tuple[datetime, datetime]]:
        """Return the context, the pin, and the certificate's validity period."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key)
            der = ssl.PEM_cert_to_DER_cert(_first_certificate(self._cert.read_text()))
        except (OSError, ValueError) as error:
            raise self._problem(self._cert, error) from error
        return context, f"sha256:{tls.pin_of(der).hex()}", tls.validity_of(der)

    def _problem(self, path: Path, error: Exception) -> RelayError:
        part = "key" if path == self._key else "cert"
        why = (
            tls.explain(error) if isinstance(error, ssl.SSLError) else getattr(error, "strerror", str(error))
        )
        return RelayError(f"{self._name}: {part}: {path}: {why}")


def _first_certificate(pem: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in pem or end not in pem:
        raise ValueError("it contains no certificate")
    return pem[pem.index(begin) : pem.index(end) + len(end)]


# -- self-signed -----------------------------------------------------------------------------------


def _self_made(state_dir: Path) -> Path:
    """Return the certificate in the state directory; create it if it is missing."""
    path = state_dir / SELF_MADE
    if not path.exists():
        _write(path, _make())
        _log.info("relay.certificate_made", path=str(path))
    return path


def _make() -> str:
    """Return a new key and a self-signed certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.fromtimestamp(SystemClock().now(), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + VALID)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode()


def _write(path: Path, text: str) -> None:
    """Write a file atomically, readable only by its owner; raises `RelayError`."""
    try:
        write_private(path, text)
    except OSError as error:
        raise RelayError(f"STATE_DIR: can't write {path}: {error.strerror}") from error


# -- from dstack -----------------------------------------------------------------------------------


async def _from_guest_agent(endpoint: str | None, state_dir: Path) -> Path:
    """Request a key and a certificate chain, and store them in the state directory."""
    request = {"subject": _NAME, "alt_names": [], "usage_ra_tls": False, "usage_server_auth": True}
    try:
        answer = await GuestAgent(endpoint).call("GetTlsKey", request)
    except AgentError as error:
        raise RelayError(f"cert=dstack: {error}") from error
    key, chain = answer.get("key"), answer.get("certificate_chain")
    if not isinstance(key, str) or not isinstance(chain, list) or not all(isinstance(c, str) for c in chain):
        raise RelayError("cert=dstack: the guest agent's answer has no key and certificate_chain")
    path = state_dir / "relay-dstack.pem"
    _write(path, "\n".join([key, *chain]) + "\n")
    return path
