"""The cross-platform userspace protocol of WireGuard, as bytes in and out (no socket here).

Lines of ``key=value``; an operation begins with ``set=1`` or ``get=1`` and ends with an empty line, and
so does its answer, whose last line is ``errno=<n>`` with 0 or a negative number. Source:
https://www.wireguard.com/xplatform/ and device/uapi.go of wireguard-go.

What this codec makes sure of:

- Every value is validated while encoding, and a whole batch is encoded before any of it is sent: a stray
  line break would end the operation, and a bad prefix in the middle leaves half of a batch applied.
- Operations are small (`OPERATION_BYTES`). One fits the socket's buffer, so that the device can refuse a
  line and hang up without us losing its answer to EPIPE, and readers get their turn in between.
- After a keepalive was switched on, wireguard-go makes every later peer of the same operation shake hands
  too. A peer without one never shares an operation with one that came before it.
- ``get=1`` returns the private key. It becomes a public key on the line where it is read.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

from dstack_vpn.adapters.device.addresses import check_keepalive, check_port, pack_cidr, pack_endpoint
from dstack_vpn.core.model import DeviceState, PeerChange, PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError

GET: Final = b"get=1\n\n"
OPERATION_BYTES: Final = 60_000
"""A quarter of Linux's default buffer of a Unix socket (212,992 bytes, of which some is overhead)."""


# -- requests -----------------------------------------------------------------------------------------


def encode_batches(changes: Sequence[PeerChange]) -> list[bytes]:
    """The changes as small operations, in their order; raises `DeviceError` for a bad value anywhere."""
    return [b"set=1\n%b\n" % b"".join(batch) for batch in _batches(changes)]


def _batches(changes: Sequence[PeerChange]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size, woken = 0, False
    for change in changes:
        lines = encode_change(change)
        wakes = isinstance(change, SetPeer) and bool(change.keepalive)
        if batch and (size + len(lines) > OPERATION_BYTES or (woken and not wakes)):
            yield batch
            batch, size = [], 0
        batch.append(lines)
        size, woken = size + len(lines), wakes
    if batch:
        yield batch


def encode_change(change: PeerChange) -> bytes:
    """A change's lines; raises `DeviceError` for a bad value."""
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
    """The operation that gives the device its key. Its running sessions end: only for a new one."""
    return b"set=1\nprivate_key=%b\n\n" % key.reveal().hex().encode("ascii")


def encode_listen_port(port: int) -> bytes:
    """The operation that binds another UDP port. The socket is recreated: only for a new port."""
    return f"set=1\nlisten_port={check_port(port)}\n\n".encode("ascii")


# -- answers ------------------------------------------------------------------------------------------

_ERRNO: Final = re.compile(rb"-?[0-9]{1,9}")
"""Nothing larger than what `os.strerror` takes."""
_SENTENCES: Final = {
    errno.EADDRINUSE: "the UDP port is in use by another program",
    errno.EINVAL: "the device refused a value",
    errno.EPROTO: "the device did not understand a line",
    errno.EIO: "the device failed to carry out the change",
}


def parse_status(answer: bytes) -> int:
    """The errno (0 or positive) that an answer to ``set=1`` carries; raises `DeviceError` for nonsense."""
    name, _, value = answer.strip().rpartition(b"\n")[2].partition(b"=")
    if name != b"errno" or not _ERRNO.fullmatch(value):
        raise DeviceError("the WireGuard device gave an answer that is none")
    return abs(int(value))


def refusal(code: int) -> DeviceError:
    """The error for an errno, as a sentence."""
    return DeviceError(f"WireGuard: {_SENTENCES.get(code) or os.strerror(code)} (errno {code})")


class GetParser:
    """Parses an answer to ``get=1`` piece by piece, so that 10,000 peers never hold up the event loop.

    Feed it pieces of any size (64 KiB take about 1 ms), then ask for `state`.
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
        """Parse as many whole lines as there are; raises `DeviceError` for nonsense."""
        whole, newline, self._tail = (self._tail + piece).rpartition(b"\n")
        try:
            for line in (whole + newline).decode("ascii").splitlines():
                self._parse_line(line)
        except (ValueError, KeyError, OSError, OverflowError):
            # Without the cause: its text could quote the line with the private key.
            raise DeviceError("the WireGuard device described itself in an unknown way") from None

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
        """Return the device that was read; raises `DeviceError` if it refused or the answer is incomplete."""
        if self._errno is None:
            raise DeviceError("the WireGuard device's description of itself broke off")
        if self._errno:
            raise refusal(self._errno)
        try:
            port, fwmark = int(self._device.get("listen_port", 0)), int(self._device.get("fwmark", 0))
        except ValueError:
            raise DeviceError("the WireGuard device described itself in an unknown way") from None
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
    # A link-local peer that called has a zone: it is of this host, and no SocketAddress carries one.
    return SocketAddress(host.strip("[]").partition("%")[0], int(port))
