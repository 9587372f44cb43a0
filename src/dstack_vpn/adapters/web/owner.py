"""The user that owns a connection from this machine, as the kernel reports it.

A reverse proxy on this machine connects from loopback for the whole world, and nothing has to show in its
requests. The kernel knows whose socket the other end is (proc(5), /proc/net/tcp): a web server has a user
of its own.
"""

import os
import socket
import struct
from pathlib import Path
from typing import Final, TypeAlias

from dstack_vpn.adapters.binding import is_here

End: TypeAlias = tuple[str, int]

TRUSTED: Final = frozenset({0, os.geteuid()})
"""Users whose processes can do anything to this one anyway."""
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAPPED: Final = "::ffff:"
_UID: Final = 7
"""Column of the user's id."""


def owner_of(there: End, here: End) -> int | None:
    """Return the user of the other end's socket, if that is on this machine, in our network namespace.

    The tables have a line for each socket, so reading them takes as long as other machines like: a client
    whose address is not on this machine is not looked for.
    """
    if not is_here(there[0].removeprefix(_MAPPED)):
        return None
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()
            ends = f"{_written(there, table)} {_written(here, table)}"
        except OSError:  # no such table, or no address
            continue
        for line in lines[1:]:
            columns = line.split()
            if len(columns) > _UID and f"{columns[1]} {columns[2]}" == ends:
                return int(columns[_UID])
    return None


def _written(end: End, table: Path) -> str:
    """Return an address as a table has it: words of the machine's byte order, in hexadecimal."""
    host, port = end[0].partition("%")[0].removeprefix(_MAPPED), end[1]
    if table.name == "tcp":
        packed = b"" if ":" in host else socket.inet_aton(host)
    else:
        packed = socket.inet_pton(socket.AF_INET6, host if ":" in host else _MAPPED + host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
