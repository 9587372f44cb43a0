"""Sockets and names of control traffic, which leaves beside an exit.

The daemon's own connections have a mark (`core.exit_routing`). libc's resolver can't mark its
queries, so the name servers are asked here, from marked sockets. A name server on this machine
(systemd-resolved, Docker) asks others without the mark. Therefore its servers are asked directly
too. libc comes last, and after it the addresses that a name had before: control traffic must not
end because a name server does.
"""

import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeAlias

Found: TypeAlias = list[tuple[Any, ...]]
"""The return type of `socket.getaddrinfo`."""
LookUp: TypeAlias = Callable[[str, int, socket.SocketKind], Found]
"""Blocks; raises `OSError`."""

TIMEOUT: Final = 2.0
"""Seconds for a name server's reply."""
_EXTERNAL: Final = re.compile(r"ExtServers: \[([^\]]*)\]")
"""The servers that Docker's resolver asks, in a comment of the file that it writes."""
_LONGEST: Final = 4096
"""Bytes of a reply."""


@dataclass(frozen=True, slots=True)
class NameFiles:
    """The files that name the name servers."""

    hosts: Path = Path("/etc/hosts")
    servers: Path = Path("/etc/resolv.conf")
    systemd: Path = Path("/run/systemd/resolve/resolv.conf")
    """The servers of systemd-resolved."""


def mark_socket(made: socket.socket, mark: int | None) -> None:
    """Mark the packets of a socket, unless this process may not; raises `OSError`.

    A command without the capability CAP_NET_ADMIN goes by the exit.
    """
    if mark is not None:
        with suppress(PermissionError):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)


def by_system(host: str, port: int, kind: socket.SocketKind) -> Found:
    """Look a name up by libc."""
    return [*socket.getaddrinfo(host, port, type=kind)]


def look_up_by(mark: int | None) -> LookUp:
    """Return the lookup for control traffic with a mark; None: by libc."""
    return by_system if mark is None else _shared(mark).look_up


@dataclass(slots=True)
class MarkedNames:
    """Looks names up from marked sockets; safe to use in several threads."""

    mark: int
    files: NameFiles = NameFiles()
    port: int = 53
    system: LookUp = by_system
    _known: dict[str, list[str]] = field(default_factory=dict, init=False)
    """The last addresses of each name."""

    def look_up(self, host: str, port: int, kind: socket.SocketKind) -> Found:
        """Return the addresses of a name, the preferred one first; raises `OSError`."""
        if _is_address(host):
            return by_system(host, port, kind)
        if found := _in_hosts(self.files.hosts, host) or self._ask(host):
            self._known[host] = found
            return self._ordered(found, port, kind)
        try:
            return self.system(host, port, kind)
        except OSError:
            if host not in self._known:
                raise
            return self._ordered(self._known[host], port, kind)

    def _ask(self, host: str) -> list[str]:
        """Return what the first name server that knows the name replies."""
        servers, search = _configured(self.files.servers)
        if all(ip_address(server).is_loopback for server in servers):
            behind = _behind(self.files)
            servers = [*behind, *servers] if "." in host else [*servers, *behind]
        names = [host] if "." in host else [*(f"{host}.{domain}" for domain in search), host]
        for server in dict.fromkeys(servers):
            for name in names:
                if found := self._query(name, server):
                    return found
        return []

    def _query(self, name: str, server: str) -> list[str]:
        """Return the addresses of both families that one server knows."""
        import dns.exception
        import dns.message
        import dns.rdatatype

        found: list[str] = []
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            try:
                query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
                query.id = secrets.randbits(16)
                reply = self._exchange(query.to_wire(), server)
                answer = dns.message.from_wire(reply)
                if not query.is_response(answer):
                    continue
                found += [each.address for entry in answer.answer for each in entry if each.rdtype == kind]
            except (OSError, dns.exception.DNSException, ValueError):
                if not found and kind == dns.rdatatype.A:
                    return []  # it would not reply to the other question either
        return found

    def _exchange(self, query: bytes, server: str) -> bytes:
        """Return a server's reply, from a marked socket; raises `OSError`."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            mark_socket(asking, self.mark)
            asking.settimeout(TIMEOUT)
            asking.connect((server, self.port))
            asking.send(query)
            return asking.recv(_LONGEST)

    def _ordered(self, addresses: Iterable[str], port: int, kind: socket.SocketKind) -> Found:
        """Return addresses as libc does, those that have a route first."""
        found = [entry for address in addresses for entry in by_system(address, port, kind)]
        return sorted(found, key=lambda entry: (not self._has_route(entry), entry[0] == socket.AF_INET))

    def _has_route(self, entry: tuple[Any, ...]) -> bool:
        with socket.socket(entry[0], socket.SOCK_DGRAM) as probe:
            mark_socket(probe, self.mark)
            try:
                probe.connect((entry[4][0], 9))
            except OSError:
                return False
        return True


_names: Final[dict[int, MarkedNames]] = {}
_lock: Final = threading.Lock()


def _shared(mark: int) -> MarkedNames:
    """Return the names of this process, so that each connection knows the last addresses."""
    with _lock:
        return _names.setdefault(mark, MarkedNames(mark))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _in_hosts(path: Path, host: str) -> list[str]:
    wanted = host.rstrip(".").lower()
    found = (line.partition("#")[0].split() for line in _lines(path))
    return [words[0] for words in found if wanted in map(str.lower, words[1:]) and _is_address(words[0])]


def _configured(path: Path) -> tuple[list[str], list[str]]:
    """Return the name servers and the search domains of a resolv.conf(5)."""
    servers, search = list[str](), list[str]()
    for words in map(str.split, _lines(path)):
        match words:
            case ["nameserver", server, *_] if _is_address(server):
                servers.append(server)
            case ["search" | "domain", *domains]:
                search = [domain for domain in domains if domain.strip(".")]
            case _:
                continue
    return servers, search


def _behind(files: NameFiles) -> list[str]:
    """Return the servers behind those of this machine."""
    comment = _EXTERNAL.search("\n".join(_lines(files.servers)))
    docker = [] if comment is None else comment[1].split()
    return [each for each in (*docker, *_configured(files.systemd)[0]) if _is_address(each)]


def _lines(path: Path) -> Iterator[str]:
    with suppress(OSError, ValueError):
        yield from path.read_text().splitlines()
