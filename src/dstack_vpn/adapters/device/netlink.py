"""The netlink codec, and a socket that sends one request at a time.

Sources: linux/netlink.h and linux/genetlink.h. A message is a header of 16 bytes and a payload.
Attributes are a length, a type and a value, padded to four bytes, and can be nested. All numbers
are in the host's byte order.
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Final, NamedTuple

from dstack_vpn.errors import DeviceError

NETLINK_GENERIC: Final = 16
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
RTM_DELLINK: Final = 17
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_DELROUTE: Final = 25
RTM_DELRULE: Final = 33

_NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF
_GENL_ID_CTRL: Final = 16
_CTRL_CMD_GETFAMILY: Final = 3
_CTRL_ATTR_FAMILY_ID: Final = 1
_CTRL_ATTR_FAMILY_NAME: Final = 2
_RTA_OIF: Final = 4
_WATCHED: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400 | 0x80 | 0x40000
"""The groups of links, and of addresses, routes and rules of both families (linux/rtnetlink.h)."""
_MAX_ERRNO: Final = 4095
"""The largest errno (linux/err.h). `os.strerror` fails for some larger ones."""

_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("=BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_INDEX: Final = struct.Struct("=4xi")
"""The index of the interface in an ifinfomsg and in an ifaddrmsg."""
_ROUTE_BYTES: Final = 12
"""The size of an rtmsg, which is before a route's attributes."""
_OIF: Final = struct.Struct("=i")

RECEIVE_BYTES: Final = 65_536
INLINE_BYTES: Final = 4_096
"""The largest request that is sent from the event loop. The kernel executes a request while it is
being sent."""


class NetlinkRefusalError(DeviceError):
    """The kernel refused a request. ``code`` is its errno."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{os.strerror(code)} (errno {code})")
        self.code = code


# -- codec -----------------------------------------------------------------------------------------


class NetlinkMessage(NamedTuple):
    """A received message. The payload is a view of the receive buffer."""

    type: int
    flags: int
    sequence: int
    payload: memoryview


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    """Return an attribute that contains attributes."""
    return attribute(kind | _NLA_F_NESTED, value)


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Return one message. The kernel sets the sender's port."""
    return _HEADER.pack(len(payload) + _HEADER.size, kind, flags, sequence, 0) + payload


def generic(command: int, attributes: bytes) -> bytes:
    """Return the payload of a generic netlink message, of interface version 1."""
    return _GENERIC.pack(command, 1, 0) + attributes


def parse_messages(buffer: bytes) -> Iterator[NetlinkMessage]:
    """Split a buffer into messages. Raises `DeviceError` if a length is invalid."""
    view, offset = memoryview(buffer), 0
    while len(view) - offset >= _HEADER.size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(view, offset)
        if not _HEADER.size <= length <= len(view) - offset:
            raise DeviceError("netlink: a message is truncated")
        yield NetlinkMessage(kind, flags, sequence, view[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def parse_attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Split a payload into types and values. Raises `DeviceError` if a length is invalid."""
    offset = 0
    while len(view) - offset >= 4:
        length, kind = _ATTRIBUTE.unpack_from(view, offset)
        if not 4 <= length <= len(view) - offset:
            raise DeviceError("netlink: an attribute is truncated")
        yield kind & _NLA_TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_generic(payload: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Return the attributes of a generic netlink message."""
    return parse_attributes(payload[_GENERIC.size :])


def interface_changes(buffer: bytes) -> Iterator[tuple[int, int]]:
    """Yield the type and the interface's index of each deleted link or route, and changed address.

    A deleted rule has the index 0. Raises `DeviceError`.
    """
    for each in parse_messages(buffer):
        if each.type == RTM_DELROUTE:
            for kind, value in parse_attributes(each.payload[_ROUTE_BYTES:]):
                if kind == _RTA_OIF and len(value) == _OIF.size:
                    yield each.type, _OIF.unpack(value)[0]
        elif each.type == RTM_DELRULE:
            yield each.type, 0
        elif each.type in {RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR}:
            if len(each.payload) < _INDEX.size:
                raise DeviceError("netlink: a message is truncated")
            yield each.type, _INDEX.unpack_from(each.payload)[0]


def check_error(payload: memoryview) -> None:
    """Raise `NetlinkRefusalError` if the errno at the payload's start is not 0."""
    code = abs(_ERROR.unpack_from(payload)[0]) if len(payload) >= 4 else errno.EPROTO
    if code:
        raise NetlinkRefusalError(code if code <= _MAX_ERRNO else errno.EPROTO)


# -- sockets ---------------------------------------------------------------------------------------


class GenericSocket:
    """A generic netlink socket for one request at a time."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def _opened(self) -> socket.socket:
        if self._socket is None:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC)
            opened.bind((0, 0))
            self._socket = opened
        return self._socket

    def close(self) -> None:
        """Close the socket. The next request opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def request(
        self, family: int, flags: int, payload: bytes, *, slow: bool = False
    ) -> AsyncIterator[NetlinkMessage]:
        """Send a request and yield the messages of its reply.

        Raises `NetlinkRefusalError`, and `DeviceError` for any other failure. ``slow`` requests,
        and large ones, are sent from a thread: the kernel executes them during the send and may
        wait for locks.
        """
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        sequence, ended = self._sequence, False
        data = message(family, NLM_F_REQUEST | flags, sequence, payload)
        try:
            opened = self._opened()
            if slow or len(data) > INLINE_BYTES:
                await asyncio.to_thread(opened.send, data)
            else:
                opened.send(data)
            async for each in _replies(opened, sequence):
                yield each
            ended = True
        except NetlinkRefusalError:
            ended = True
            raise
        except OSError as error:
            raise DeviceError(f"netlink: {error.strerror}") from error
        finally:
            if not ended:
                # Also after a cancellation: the rest of a dump must not be read as the next reply.
                self.close()


async def _replies(opened: socket.socket, sequence: int) -> AsyncIterator[NetlinkMessage]:
    loop = asyncio.get_running_loop()
    while True:
        for each in parse_messages(await loop.sock_recv(opened, RECEIVE_BYTES)):
            if each.sequence != sequence:
                continue
            if each.type in {NLMSG_ERROR, NLMSG_DONE}:
                check_error(each.payload)
                return
            yield each
        # sock_recv does not yield to the event loop if data is available.
        await asyncio.sleep(0)


async def find_family(name: str) -> int | None:
    """Return the number of a generic netlink family. None if the kernel does not have it.

    The kernel tries to load the family's module.
    """
    payload = generic(_CTRL_CMD_GETFAMILY, attribute(_CTRL_ATTR_FAMILY_NAME, name.encode("ascii") + b"\0"))
    found: int | None = None
    opened = GenericSocket()
    try:
        async for each in opened.request(_GENL_ID_CTRL, NLM_F_ACK, payload, slow=True):
            for kind, value in parse_generic(each.payload):
                if kind == _CTRL_ATTR_FAMILY_ID:
                    found = int.from_bytes(value[:2], "little" if struct.pack("=H", 1)[0] else "big")
    except NetlinkRefusalError as error:
        if error.code != errno.ENOENT:
            raise
    finally:
        opened.close()
    return found


class LinkWatch:
    """Reports if an interface, its routes or any rule is deleted, or its addresses change."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.gone = asyncio.Event()
        self._edited = asyncio.Event()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._socket.bind((0, _WATCHED))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    async def edited(self) -> None:
        """Return when its addresses or routes may have changed since the last call, by anyone."""
        await self._edited.wait()
        self._edited.clear()

    def _read(self) -> None:
        try:
            changes = list(interface_changes(self._socket.recv(RECEIVE_BYTES)))
        except BlockingIOError:
            return
        except (OSError, DeviceError):
            # Notifications were lost, because the buffer overflowed (ENOBUFS), or are unreadable.
            self._check()
            return
        for kind, index in changes:
            if index == self.index or kind == RTM_DELRULE:
                self._edited.set()
                if kind == RTM_DELLINK:
                    self.gone.set()

    def _check(self) -> None:
        self._edited.set()
        try:
            socket.if_indextoname(self.index)
        except OSError:
            self.gone.set()

    def close(self) -> None:
        """Stop watching, and release those that wait for the deletion."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self.gone.set()
