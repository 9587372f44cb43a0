"""TLS for the relay: the check of the server, a non-blocking handshake, and a stream.

A pin is the SHA-256 of the server's SubjectPublicKeyInfo (RFC 7469). It replaces authorities and
names: the holder of that key is the server. With a CA file in addition, both checks must pass.
"""

import asyncio
import socket
import ssl
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from dstack_vpn.adapters.relay.stream import Buffer
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import RelayError

_WOULD_BLOCK: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_EXPIRED: Final = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED (openssl/x509_vfy.h)."""
_WRONG_NAME: Final = (62, 63, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and so on."""


class TlsStream:
    """A `Stream` over a TLS connection after its handshake.

    After a write that would have blocked, OpenSSL requires the same data again. Python allows that
    the bytes have moved since (SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER), and that only a part is
    written.
    """

    plain = False

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection, self.descriptor = connection, connection.fileno()
        self.tls_version = connection.version()

    def send(self, data: Buffer) -> int:
        """See `Stream.send`."""
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(view):
                sent += self.connection.send(view[sent:])
        except _WOULD_BLOCK:
            pass
        return sent

    def recv_into(self, buffer: memoryview) -> int | None:
        """See `Stream.recv_into`."""
        try:
            return self.connection.recv_into(buffer)
        except _WOULD_BLOCK:
            return None
        except ssl.SSLEOFError:
            return 0  # without a closing alert, which datagrams do not need

    def pending(self) -> bool:
        """True if a record has been decrypted in part."""
        return self.connection.pending() > 0

    def close(self) -> None:
        """Close immediately, without waiting for the other side's alert."""
        self.connection.close()


# -- client ----------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def client_context(upstream: RelayUrl) -> ssl.SSLContext:
    """Return the context that checks a server; raises `RelayError` if the CA file is unusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if upstream.pins and upstream.ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    if upstream.ca is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(upstream.ca)
    except (OSError, ssl.SSLError) as error:
        raise RelayError(f"{upstream.name}: ca: {upstream.ca}: {_reason(error)}") from error
    return context


async def connect(connection: socket.socket, upstream: RelayUrl, timeout: float) -> TlsStream:
    """Perform the handshake as a client; raises `RelayError`, after closing the connection."""
    try:
        name = upstream.sni or upstream.host
        secured = client_context(upstream).wrap_socket(
            connection, server_hostname=name, do_handshake_on_connect=False
        )
    except BaseException:
        connection.close()
        raise
    try:
        await handshake(secured, timeout)
        _check_pin(secured, upstream)
    except (ssl.SSLError, OSError) as error:
        secured.close()
        raise RelayError(f"{upstream.name}: {explain(error, name)}") from error
    except BaseException:
        secured.close()
        raise
    return TlsStream(secured)


def _check_pin(secured: ssl.SSLSocket, upstream: RelayUrl) -> None:
    if not upstream.pins:
        return
    certificate = secured.getpeercert(binary_form=True)
    found = pin_of(certificate) if certificate else b""
    if found not in upstream.pins:
        raise RelayError(
            f"{upstream.name}: pin: the server has another key, sha256:{found.hex()}. If the change is "
            "intended, put this pin into the URL; otherwise the connection may be intercepted"
        )


def pin_of(certificate: bytes) -> bytes:
    """Return the SHA-256 of a DER certificate's SubjectPublicKeyInfo."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def validity_of(certificate: bytes) -> tuple[datetime, datetime]:
    """Return the validity period of a DER certificate; unlimited if a date can't be read."""
    from cryptography import x509

    try:
        read = x509.load_der_x509_certificate(certificate)
        first, last = read.not_valid_before_utc, read.not_valid_after_utc
    except ValueError:
        return datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    return first, last


# -- both sides ------------------------------------------------------------------------------------


async def handshake(secured: ssl.SSLSocket, timeout: float) -> None:
    """Perform the handshake on a non-blocking socket within ``timeout`` seconds.

    Raises `OSError` (also as `ssl.SSLError` and `TimeoutError`).
    """
    loop = asyncio.get_running_loop()
    descriptor = secured.fileno()
    async with asyncio.timeout(timeout):
        while True:
            try:
                return secured.do_handshake()
            except ssl.SSLWantReadError:
                add, remove = loop.add_reader, loop.remove_reader
            except ssl.SSLWantWriteError:
                add, remove = loop.add_writer, loop.remove_writer
            ready = loop.create_future()
            add(descriptor, _set, ready)
            try:
                await ready
            finally:
                remove(descriptor)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def explain(error: Exception, name: str = "") -> str:
    """Return a readable reason for a failed handshake."""
    match error:
        case TimeoutError():
            return "the TLS handshake took too long"
        case ssl.SSLCertVerificationError(verify_code=code) if code in _EXPIRED:
            return "the server's certificate has expired, or is not valid yet"
        case ssl.SSLCertVerificationError(verify_code=code) if code in _WRONG_NAME:
            return f"the server's certificate is for another name than {name}; sni= in the URL sets the name"
        case ssl.SSLCertVerificationError():
            return (
                f"the server's certificate is not trusted ({error.verify_message}); set its CA with ca=, "
                "or its key with pin="
            )
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "HTTP_REQUEST" | "UNEXPECTED_MESSAGE"):
            return "the other side does not speak TLS"
        case ssl.SSLError(reason="UNSUPPORTED_PROTOCOL" | "TLSV1_ALERT_PROTOCOL_VERSION"):
            return "the other side does not support TLS 1.2 or newer"
        case ssl.SSLEOFError() | ConnectionResetError():
            return "the other side ended the TLS handshake; gateways do so for an unknown name"
    return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "no certificate in it").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
