"""A codec for the kernel's WireGuard messages. Names and layout are those of linux/wireguard.h.

- A set request carries about 60 kB at most, because lengths are 16 bits wide. A peer with more
  prefixes is sent in parts, and only its first part replaces the prefixes.
- A removal is sent in a separate message. The kernel waits for the peer's packets in flight under
  rtnl, the lock that all of networking shares, and releases it only between messages. 100 removals
  in one message held it for 27 s under saturating traffic in a virtual machine.
- A dump consists of several messages. A peer that does not fit continues in the next message with
  only its key and prefixes.
- A dump also contains the private key. It is skipped, because the dump has the public key too.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from dstack_vpn.adapters.device.addresses import (
    check_keepalive,
    check_mark,
    check_port,
    pack_cidr,
    pack_endpoint,
)
from dstack_vpn.adapters.device.netlink import attribute, generic, nested, parse_attributes, parse_generic
from dstack_vpn.core.model import Cidr, DeviceState, PeerChange, PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.errors import DeviceError

FAMILY_NAME: Final = "wireguard"
MESSAGE_BYTES: Final = 60_000
PREFIXES_A_PART: Final = 1_000

_GET_DEVICE: Final = 0
_SET_DEVICE: Final = 1

_DEVICE_IFNAME: Final = 2
_DEVICE_PRIVATE_KEY: Final = 3
_DEVICE_PUBLIC_KEY: Final = 4
_DEVICE_LISTEN_PORT: Final = 6
_DEVICE_FWMARK: Final = 7
_DEVICE_PEERS: Final = 8

_REMOVE_ME: Final = 1
_REPLACE_ALLOWED_IPS: Final = 2

_PEER_PUBLIC_KEY: Final = 1
_PEER_FLAGS: Final = 3
_PEER_ENDPOINT: Final = 4
_PEER_KEEPALIVE: Final = 5
_PEER_LAST_HANDSHAKE: Final = 6
_PEER_RX_BYTES: Final = 7
_PEER_TX_BYTES: Final = 8
_PEER_ALLOWED_IPS: Final = 9

_IP_FAMILY: Final = 1
_IP_ADDRESS: Final = 2
_IP_MASK: Final = 3

_U8: Final = struct.Struct("=B")
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_U64: Final = struct.Struct("=Q")
_TIMESPEC: Final = struct.Struct("=qq")
_SOCKADDR_PORT: Final = struct.Struct("!H")


# -- requests --------------------------------------------------------------------------------------


def encode_get(name: str) -> bytes:
    """Return the payload that requests a device."""
    return generic(_GET_DEVICE, _named(name))


def encode_private_key(name: str, key: PrivateKey) -> bytes:
    """Return the payload that sets the private key."""
    return generic(_SET_DEVICE, _named(name) + attribute(_DEVICE_PRIVATE_KEY, key.reveal()))


def encode_listen_port(name: str, port: int) -> bytes:
    """Return the payload that binds another UDP port."""
    return generic(_SET_DEVICE, _named(name) + attribute(_DEVICE_LISTEN_PORT, _U16.pack(check_port(port))))


def encode_mark(name: str, mark: int) -> bytes:
    """Return the payload that sets the mark of the device's packets; 0: no mark."""
    return generic(_SET_DEVICE, _named(name) + attribute(_DEVICE_FWMARK, _U32.pack(check_mark(mark))))


def encode_batches(name: str, changes: Sequence[PeerChange]) -> list[bytes]:
    """Return the changes in order as payloads. Raises `DeviceError` for a bad value."""
    return [
        generic(_SET_DEVICE, _named(name) + nested(_DEVICE_PEERS, b"".join(batch)))
        for batch in _batches(changes)
    ]


def _batches(changes: Sequence[PeerChange]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size, alone = 0, False
    for change in changes:
        for part in _peer_parts(change):
            removes = isinstance(change, RemovePeer)
            if batch and (alone or removes or size + len(part) > MESSAGE_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(part)
            size, alone = size + len(part), removes
    if batch:
        yield batch


def _peer_parts(change: PeerChange) -> Iterator[bytes]:
    key = attribute(_PEER_PUBLIC_KEY, change.public_key)
    match change:
        case RemovePeer():
            yield nested(0, key + attribute(_PEER_FLAGS, _U32.pack(_REMOVE_ME)))
        case SetPeer():
            prefixes = [_encode_prefix(cidr) for cidr in sorted(change.allowed_ips or ())]
            first, rest = prefixes[:PREFIXES_A_PART], prefixes[PREFIXES_A_PART:]
            yield nested(0, key + _peer_settings(change) + nested(_PEER_ALLOWED_IPS, b"".join(first)))
            for start in range(0, len(rest), PREFIXES_A_PART):
                part = b"".join(rest[start : start + PREFIXES_A_PART])
                yield nested(0, key + nested(_PEER_ALLOWED_IPS, part))


def _peer_settings(change: SetPeer) -> bytes:
    settings = b""
    if change.replace_allowed_ips:
        settings += attribute(_PEER_FLAGS, _U32.pack(_REPLACE_ALLOWED_IPS))
    if change.endpoint is not None:
        settings += attribute(_PEER_ENDPOINT, encode_sockaddr(change.endpoint))
    if change.keepalive is not None:
        settings += attribute(_PEER_KEEPALIVE, _U16.pack(check_keepalive(change.keepalive)))
    return settings


def encode_sockaddr(endpoint: SocketAddress) -> bytes:
    """Return a ``struct sockaddr_in`` or ``sockaddr_in6``. Raises `DeviceError`."""
    family, packed, port = pack_endpoint(endpoint)
    head = _U16.pack(family) + _SOCKADDR_PORT.pack(port)
    return head + packed + bytes(8) if family == socket.AF_INET else head + bytes(4) + packed + bytes(4)


def _encode_prefix(cidr: Cidr) -> bytes:
    family, packed, length = pack_cidr(cidr)
    return nested(
        0,
        attribute(_IP_FAMILY, _U16.pack(family))
        + attribute(_IP_ADDRESS, packed)
        + attribute(_IP_MASK, _U8.pack(length)),
    )


def _named(name: str) -> bytes:
    return attribute(_DEVICE_IFNAME, name.encode("ascii") + b"\0")


# -- replies ---------------------------------------------------------------------------------------


class DumpParser:
    """Parser for the messages of a dump."""

    def __init__(self) -> None:
        self._public_key: PublicKey | None = None
        self._listen_port = 0
        self._fwmark = 0
        self._peers: dict[PublicKey, PeerState] = {}

    def feed(self, payload: memoryview) -> None:
        """Parse one message (up to 32 KiB, about 1 ms). Raises `DeviceError` if it is malformed."""
        try:
            for kind, value in parse_generic(payload):
                self._take(kind, value)
        except (struct.error, ValueError, LookupError, OSError) as error:
            raise DeviceError("the kernel sent a malformed description of the WireGuard device") from error

    def _take(self, kind: int, value: memoryview) -> None:
        if kind == _DEVICE_PUBLIC_KEY and any(value):
            self._public_key = PublicKey(bytes(value))
        elif kind == _DEVICE_LISTEN_PORT:
            (self._listen_port,) = _U16.unpack(value)
        elif kind == _DEVICE_FWMARK:
            (self._fwmark,) = _U32.unpack(value)
        elif kind == _DEVICE_PEERS:
            for _, peer in parse_attributes(value):
                self._merge(_parse_peer(dict(parse_attributes(peer))))

    def _merge(self, peer: PeerState) -> None:
        begun = self._peers.get(peer.public_key)
        if begun is not None:
            peer = PeerState(
                begun.public_key,
                begun.allowed_ips | peer.allowed_ips,
                begun.endpoint,
                begun.keepalive,
                begun.last_handshake,
                begun.rx_bytes,
                begun.tx_bytes,
            )
        self._peers[peer.public_key] = peer

    def state(self) -> DeviceState:
        """Return the device that was read."""
        return DeviceState(self._public_key, self._listen_port, self._fwmark, self._peers)


_NOTHING: Final = memoryview(b"")


def _parse_peer(fields: dict[int, memoryview]) -> PeerState:
    endpoint = fields.get(_PEER_ENDPOINT)
    seconds, nanoseconds = _TIMESPEC.unpack(fields.get(_PEER_LAST_HANDSHAKE, bytes(16)))
    return PeerState(
        PublicKey(bytes(fields[_PEER_PUBLIC_KEY])),
        frozenset(
            _parse_prefix(dict(parse_attributes(prefix)))
            for _, prefix in parse_attributes(fields.get(_PEER_ALLOWED_IPS, _NOTHING))
        ),
        None if endpoint is None else parse_sockaddr(endpoint),
        _U16.unpack(fields.get(_PEER_KEEPALIVE, bytes(2)))[0],
        seconds + nanoseconds / 1e9,
        _U64.unpack(fields.get(_PEER_RX_BYTES, bytes(8)))[0],
        _U64.unpack(fields.get(_PEER_TX_BYTES, bytes(8)))[0],
    )


def parse_sockaddr(value: memoryview) -> SocketAddress | None:
    """Parse a ``struct sockaddr_in`` or ``sockaddr_in6``. Return None for another family."""
    (family,) = _U16.unpack_from(value)
    (port,) = _SOCKADDR_PORT.unpack_from(value, 2)
    if family == socket.AF_INET:
        return SocketAddress(socket.inet_ntop(socket.AF_INET, value[4:8]), port)
    if family == socket.AF_INET6:
        return SocketAddress(socket.inet_ntop(socket.AF_INET6, value[8:24]), port)
    return None


def _parse_prefix(fields: dict[int, memoryview]) -> Cidr:
    (family,) = _U16.unpack(fields[_IP_FAMILY])
    return f"{socket.inet_ntop(family, fields[_IP_ADDRESS])}/{fields[_IP_MASK][0]}"
