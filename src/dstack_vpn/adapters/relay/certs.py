"""The certificate of a relay that listens by TLS: from files, self-made, or from the dstack guest agent."""

import os
import socket
import ssl
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.keys.guest_agent import GuestAgent
from dstack_vpn.adapters.relay import tls
from dstack_vpn.core.upstream import DSTACK, Listen
from dstack_vpn.errors import AgentError, RelayError

_log = structlog.get_logger(component="relay")

SELF_MADE: Final = "relay-certificate.pem"
"""In the state directory: key and certificate."""
VALID: Final = timedelta(days=3650)
LOOK: Final = 1.0
"""Seconds between looks at whether the files have changed."""
_NAME: Final = "dstack-vpn relay"


class Certificates:
    """Shakes hands with clients: a `tcp2udp.Secure`."""

    def __init__(self, cert: Path, key: Path | None, name: str) -> None:
        """Load the files; raises `RelayError` that names the one that is wrong."""
        self._cert, self._key, self._name = cert, key, name
        self._seen = self._stamp()
        self._looked = time.monotonic()
        self._context, self.pin = self._load()

    @classmethod
    async def load(cls, listen: Listen, state_dir: Path, guest_agent: str | None) -> "Certificates":
        """The certificate that a URL asks for; raises `RelayError`."""
        if listen.cert == DSTACK:
            path = await _from_guest_agent(guest_agent, state_dir)
        elif listen.cert is not None:
            return cls(Path(listen.cert), None if listen.key is None else Path(listen.key), listen.name)
        else:
            path = _self_made(state_dir)
        return cls(path, None, listen.name)

    async def __call__(self, connection: socket.socket, timeout: float) -> tls.TlsStream:
        """Shake hands; raises `RelayError`, and then the connection is closed."""
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

    # -- files ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Load the files again where they have changed; broken ones change nothing."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            self._context, self.pin = self._load()
        except RelayError as error:
            _log.error("relay.certificate_refused", problem=str(error))
        else:
            _log.info("relay.certificate_loaded", pin=self.pin)

    def _stamp(self) -> Sequence[tuple[int, int]]:
        found = []
        for path in filter(None, (self._cert, self._key)):
            try:
                status = path.stat()
            except OSError as error:
                raise self._problem(path, error) from error
            found.append((status.st_mtime_ns, status.st_ino))
        return found

    def _load(self) -> tuple[ssl.SSLContext, str]:
        """The context and the pin."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key)
            der = ssl.PEM_cert_to_DER_cert(_first_certificate(self._cert.read_text()))
        except (OSError, ValueError) as error:
            raise self._problem(self._cert, error) from error
        return context, f"sha256:{tls.pin_of(der).hex()}"

    def _problem(self, path: Path, error: Exception) -> RelayError:
        part = "key" if path == self._key else "cert"
        why = (
            tls.explain(error) if isinstance(error, ssl.SSLError) else getattr(error, "strerror", str(error))
        )
        return RelayError(f"{self._name}: {part}: {path}: {why}")


def _first_certificate(pem: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in pem or end not in pem:
        raise ValueError("there is no certificate in it")
    return pem[pem.index(begin) : pem.index(end) + len(end)]


# -- of our own making ------------------------------------------------------------------------------------


def _self_made(state_dir: Path) -> Path:
    """The certificate in the state directory, made now if there is none."""
    path = state_dir / SELF_MADE
    if not path.exists():
        _write(path, _make())
        _log.info("relay.certificate_made", path=str(path))
    return path


def _make() -> str:
    """A key and a certificate that the key itself has signed."""
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
    """Write a file that only its owner can read, all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # which makes it 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise RelayError(f"STATE_DIR: can't write {path}: {error.strerror}") from error


# -- from dstack ------------------------------------------------------------------------------------------


async def _from_guest_agent(endpoint: str | None, state_dir: Path) -> Path:
    """Ask the guest agent for a key and a certificate chain; they stay in the state directory."""
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
