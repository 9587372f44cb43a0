"""A codec for WireGuard's cross-platform userspace protocol. It does no IO.

The protocol consists of lines of ``key=value``. An operation begins with ``set=1`` or ``get=1`` and
ends with an empty line. So does its reply, whose last line is ``errno=<n>`` with 0 or a negative
number. Source: https://www.wireguard.com/xplatform/ and device/uapi.go of wireguard-go.

The codec ensures the following:

- Every value is validated while encoding, and a whole batch is encoded before any of it is sent.
  A line break in a value would end the operation, and a bad prefix in the middle would leave half
  of a batch applied.
- Operations are small (`OPERATION_BYTES`). One fits into the socket's buffer. Therefore, if the
  device refuses a line and closes the connection, its reply is not lost to EPIPE. Readers can run
  between operations.
- After an operation enabled a keepalive, wireguard-go also sends handshake initiations to all later
  peers of that operation. A peer without a keepalive never follows one with a keepalive in the same
  operation.
- ``get=1`` returns the private key. It is converted to the public key when its line is read.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

from dstack_vpn.adapters.device.addresses import (
    check_keepalive,
    check_mark,
    check_port,
    pack_cidr,
    pack_endpoint,
)
from dstack_vpn.core.model import DeviceState, PeerChange, PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError

GET: Final = b"get=1\n\n"
OPERATION_BYTES: Final = 60_000
"""A quarter of Linux's default buffer of a Unix socket (212,992 bytes, of which some is
overhead)."""


# -- requests --------------------------------------------------------------------------------------


def encode_batches(changes: Sequence[PeerChange]) -> list[bytes]:
    """Return the changes in order as small operations. Raises `DeviceError` for a bad value."""
    return [b"set=1\n%b\n" % b"".join(batch) for batch in _batches(changes)]


def _batches(changes: Sequence[PeerChange]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size, after_keepalive = 0, False
    for change in changes:
        lines = encode_change(change)
        has_keepalive = isinstance(change, SetPeer) and bool(change.keepalive)
        if batch and (size + len(lines) > OPERATION_BYTES or (after_keepalive and not has_keepalive)):
            yield batch
            batch, size = [], 0
        batch.append(lines)
        size, after_keepalive = size + len(lines), has_keepalive
    if batch:
        yield batch


def encode_change(change: PeerChange) -> bytes:
    """Return the lines of a change. Raises `DeviceError` for a bad value."""
    lines = ["remove=true"] if isinstance(change, RemovePeer) else _set_lines(change)
    return "".join(f"{line}\n" for line in (f"public_key={change.public_key.hex()}", *lines)).encode("ascii")


def _set_lines(change: SetPeer) -> Iterator[str]:
    if change.endpoint is not None:
        pack_endpoint(change.endpoint)
        yield f"endpoint={change.endpoint}"
    if change.keepalive is not None:
        yield f"persistent_keepalive_interval={check_keepalive(change.keepalive)}"
    if change.replace_allowed_ips:
        yield "replace_allowed_ips=true"
    for cidr in sorted(change.allowed_ips or ()):
        pack_cidr(cidr)
        yield f"allowed_ip={cidr}"


def encode_private_key(key: PrivateKey) -> bytes:
    """Return the operation that sets the private key.

    It ends all sessions, so it is only sent for a new key.
    """
    return b"set=1\nprivate_key=%b\n\n" % key.reveal().hex().encode("ascii")


def encode_listen_port(port: int) -> bytes:
    """Return the operation that binds another UDP port.

    It recreates the socket, so it is only sent for a new port.
    """
    return f"set=1\nlisten_port={check_port(port)}\n\n".encode("ascii")


def encode_mark(mark: int) -> bytes:
    """Return the operation that sets the mark of the device's packets; 0: no mark."""
    return f"set=1\nfwmark={check_mark(mark)}\n\n".encode("ascii")


# -- replies ---------------------------------------------------------------------------------------

_ERRNO: Final = re.compile(rb"-?[0-9]{1,9}")
"""Limited to numbers that `os.strerror` accepts."""
_MESSAGES: Final = {
    errno.EADDRINUSE: "the UDP port is in use by another program",
    errno.EINVAL: "the device refused a value",
    errno.EPROTO: "the device did not understand a line",
    errno.EIO: "the device failed to carry out the change",
}


def parse_status(answer: bytes) -> int:
    """Return the errno (0 or positive) of a reply to ``set=1``.

    Raises `DeviceError` for a malformed reply.
    """
    name, _, value = answer.strip().rpartition(b"\n")[2].partition(b"=")
    if name != b"errno" or not _ERRNO.fullmatch(value):
        raise DeviceError("the WireGuard device sent a malformed reply")
    return abs(int(value))


def refusal(code: int) -> DeviceError:
    """Return the error for an errno."""
    return DeviceError(f"WireGuard: {_MESSAGES.get(code) or os.strerror(code)} (errno {code})")


class GetParser:
    """Parser for a reply to ``get=1``, in pieces, so that 10,000 peers do not block the event loop.

    Call `feed` with pieces of any size (64 KiB take about 1 ms), then `state`.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._public_key: PublicKey | None = None
        self._device: dict[str, str] = {}
        self._peers: dict[PublicKey, PeerState] = {}
        self._fields = self._device
        self._allowed_ips: list[str] = []
        self._errno: int | None = None

    def feed(self, piece: bytes) -> None:
        """Parse all complete lines. Raises `DeviceError` for malformed ones."""
        whole, newline, self._tail = (self._tail + piece).rpartition(b"\n")
        try:
            for line in (whole + newline).decode("ascii").splitlines():
                self._parse_line(line)
        except (ValueError, KeyError, OSError, OverflowError):
            # Without the cause: its message could quote the line with the private key.
            raise DeviceError("the WireGuard device sent a malformed description") from None

    def _parse_line(self, line: str) -> None:
        name, _, value = line.partition("=")
        if name == "allowed_ip":
            self._allowed_ips.append(value)
        elif name == "public_key":
            self._end_peer()
            self._fields = {name: value}
        elif name == "private_key":
            self._public_key = derive(PrivateKey(bytes.fromhex(value)))
        elif name == "errno":
            self._end_peer()
            self._errno = parse_status(line.encode("ascii"))
        elif name != "preshared_key":
            self._fields[name] = value

    def _end_peer(self) -> None:
        if self._fields is not self._device:
            peer = _parse_peer(self._fields, frozenset(self._allowed_ips))
            self._peers[peer.public_key] = peer
        self._fields, self._allowed_ips = self._device, []

    def state(self) -> DeviceState:
        """Return the device's state. Raises `DeviceError` for a refusal or an incomplete reply."""
        if self._errno is None:
            raise DeviceError("the WireGuard device sent an incomplete description")
        if self._errno:
            raise refusal(self._errno)
        try:
            port, fwmark = int(self._device.get("listen_port", 0)), int(self._device.get("fwmark", 0))
        except ValueError:
            raise DeviceError("the WireGuard device sent a malformed description") from None
        return DeviceState(self._public_key, port, fwmark, self._peers)


def _parse_peer(fields: dict[str, str], allowed_ips: frozenset[str]) -> PeerState:
    endpoint = fields.get("endpoint")
    nanoseconds = int(fields.get("last_handshake_time_nsec", 0))
    return PeerState(
        PublicKey(bytes.fromhex(fields["public_key"])),
        allowed_ips,
        None if endpoint is None else _parse_endpoint(endpoint),
        int(fields.get("persistent_keepalive_interval", 0)),
        int(fields.get("last_handshake_time_sec", 0)) + nanoseconds / 1e9,
        int(fields.get("rx_bytes", 0)),
        int(fields.get("tx_bytes", 0)),
    )


def _parse_endpoint(text: str) -> SocketAddress:
    host, _, port = text.rpartition(":")
    # The address of a link-local peer has a zone, which is local to this host: drop it.
    return SocketAddress(host.strip("[]").partition("%")[0], int(port))
