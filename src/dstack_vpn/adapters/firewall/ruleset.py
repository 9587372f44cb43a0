"""The generation of the kernel's rules: a number that each transaction of any program increments.

Sources: linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h. A message's type is the
subsystem and the kind of message. A header of 4 bytes is before its attributes, whose numbers are
big-endian.

The kernel reports a generation with the process that made it. That process's id is of the first
PID namespace, so that a container can't recognise its own. `NftFirewall` recognises its own
generations by their numbers.
"""

import asyncio
import errno
import os
import socket
import struct
from typing import Final

from dstack_vpn.adapters.device import netlink
from dstack_vpn.errors import DeviceError, FirewallError

NOT_PERMITTED: Final = "no permission to change the firewall: CAP_NET_ADMIN is needed"
NOT_SUPPORTED: Final = (
    "this kernel lacks a part of nftables: use another one, or without a policy set LEAK_PROTECTION=off"
)
DEADLINE: Final = 5.0
"""Seconds to wait for a reply of the kernel."""

_NETLINK_NETFILTER: Final = 12
_NFNL_SUBSYS_NFTABLES: Final = 10
_NFT_MSG_NEWGEN: Final = 15
_NFT_MSG_GETGEN: Final = 16
_NFNLGRP_NFTABLES: Final = 7
_NFTA_GEN_ID: Final = 1
_NFGENMSG: Final = struct.Struct("=BBH")
_NUMBER: Final = struct.Struct(">I")
_NEWGEN: Final = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_NEWGEN
_GETGEN: Final = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN
_PROBLEMS: Final = {
    errno.EPERM: NOT_PERMITTED,
    errno.EINVAL: NOT_SUPPORTED,
    errno.EOPNOTSUPP: NOT_SUPPORTED,
    errno.EPROTONOSUPPORT: NOT_SUPPORTED,
}


class GenerationSocket:
    """Reads the generation of the rules in the network namespace of the thread that opened it.

    It is opened at the first request, and stays open: the kernel completes the removals of earlier
    transactions before it closes a socket of this kind, which takes 15 ms.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def read(self) -> int:
        """Return the generation. Blocks, for microseconds.

        Raises `FirewallError`, also if the kernel has no nftables.
        """
        try:
            opened = self._opened()
            opened.send(netlink.message(_GETGEN, netlink.NLM_F_REQUEST, 1, _NFGENMSG.pack(0, 0, 0)))
            return parse_generation(opened.recv(netlink.RECEIVE_BYTES))
        except netlink.NetlinkRefusalError as error:
            raise refused(error.code) from error
        except OSError as error:
            # A late reply must not be read as the next one.
            self.close()
            if isinstance(error, TimeoutError):
                raise FirewallError(f"nftables: the kernel did not reply within {DEADLINE:g} s") from None
            raise refused(error.errno or errno.EIO) from error

    def close(self) -> None:
        """Close the socket. The next request opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _opened(self) -> socket.socket:
        if self._socket is None:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            opened.settimeout(DEADLINE)
            opened.bind((0, 0))
            self._socket = opened
        return self._socket


def refused(code: int) -> FirewallError:
    """Return the error for an errno of the kernel."""
    return FirewallError(_PROBLEMS.get(code) or f"nftables: {os.strerror(code)} (errno {code})")


def parse_generation(reply: bytes) -> int:
    """Return the generation in a reply. Raises `FirewallError`, and `NetlinkRefusalError`."""
    try:
        for each in netlink.parse_messages(reply):
            if each.type == netlink.NLMSG_ERROR:
                netlink.check_error(each.payload)
            if each.type == _NEWGEN:
                for kind, value in netlink.parse_attributes(each.payload[_NFGENMSG.size :]):
                    if kind == _NFTA_GEN_ID and len(value) == _NUMBER.size:
                        number: int = _NUMBER.unpack(value)[0]
                        return number
    except netlink.NetlinkRefusalError:
        raise
    except DeviceError as error:
        raise FirewallError(str(error)) from error
    raise FirewallError("nftables: the kernel reports no generation")


def ends_transaction(buffer: bytes) -> bool:
    """Return True if a notification of the kernel ends a transaction, or is not readable."""
    try:
        return any(each.type == _NEWGEN for each in netlink.parse_messages(buffer))
    except DeviceError:
        return True


class RulesetWatch:
    """Reports that a transaction of any program has ended."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
            try:
                self._socket.bind((0, 1 << _NFNLGRP_NFTABLES - 1))
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise refused(error.errno or errno.EIO) from error
        self._loop.add_reader(self._socket, self._read)

    async def changed(self) -> None:
        """Return when a transaction has ended since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def _read(self) -> None:
        try:
            ended = ends_transaction(self._socket.recv(netlink.RECEIVE_BYTES))
        except BlockingIOError:
            return
        except OSError:
            # Notifications were lost, because the buffer overflowed (ENOBUFS).
            ended = True
        if ended:
            self._changed.set()

    def close(self) -> None:
        """Stop watching."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
