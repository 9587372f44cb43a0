"""The user that owns a connection from this machine, as the kernel reports it.

A reverse proxy on this machine connects from loopback on behalf of clients anywhere, and its
requests need not show it. The kernel knows the user of the other end's socket (proc(5),
/proc/net/tcp), and a web server normally runs as a separate user.
"""

import os
import socket
import struct
from pathlib import Path
from typing import Final, TypeAlias

from dstack_vpn.adapters.binding import is_here

End: TypeAlias = tuple[str, int]

TRUSTED: Final = frozenset({0, os.geteuid()})
"""Users whose processes can control this process in any case."""
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAPPED: Final = "::ffff:"
_UID: Final = 7
"""The column of the user id."""


def owner_of(there: End, here: End) -> int | None:
    """Return the user id of the other end's socket; None if it is not in this network namespace.

    The tables have one line per socket, so other machines can make them long. They are read only
    for a client whose address is on this machine.
    """
    if not is_here(there[0].removeprefix(_MAPPED)):
        return None
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()
            ends = f"{_written(there, table)} {_written(here, table)}"
        except OSError:  # the table is missing, or this is not an address
            continue
        for line in lines[1:]:
            columns = line.split()
            if len(columns) > _UID and f"{columns[1]} {columns[2]}" == ends:
                return int(columns[_UID])
    return None


def _written(end: End, table: Path) -> str:
    """Return an address as written in a table: hexadecimal words in the machine's byte order."""
    host, port = end[0].partition("%")[0].removeprefix(_MAPPED), end[1]
    if table.name == "tcp":
        packed = b"" if ":" in host else socket.inet_aton(host)
    else:
        packed = socket.inet_pton(socket.AF_INET6, host if ":" in host else _MAPPED + host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
