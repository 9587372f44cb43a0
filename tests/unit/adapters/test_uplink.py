"""Names of control traffic, by name servers on this machine."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from dstack_vpn.adapters import uplink
from dstack_vpn.adapters.uplink import MarkedNames, NameFiles, look_up_by, mark_socket

MARK = 77
STREAM = socket.SOCK_STREAM


@dataclass
class NameServers:
    """Name servers at loopback addresses, on one port."""

    records: Mapping[str, Mapping[str, list[str]]]
    """Addresses by server and name."""
    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        for server in self.records:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((server, self.port))
            self.port = udp.getsockname()[1]
            self.sockets.append(udp)
            threading.Thread(target=self._serve, args=(server, udp), daemon=True).start()

    def _serve(self, server: str, udp: socket.socket) -> None:
        with suppress(OSError):  # the test has closed it
            while True:
                self._answer(server, udp)

    def _answer(self, server: str, udp: socket.socket) -> None:
        data, source = udp.recvfrom(4096)
        query = dns.message.from_wire(data)
        (asked,) = query.question
        name, kind = str(asked.name).rstrip("."), asked.rdtype.name
        self.asked.append((server, name))
        reply = dns.message.make_response(query)
        addresses = self.records[server].get(name)
        if addresses is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        for address in addresses or ():
            if (":" in address) == (kind == "AAAA"):
                reply.answer.append(dns.rrset.from_text(asked.name, 5, "IN", kind, address))
        udp.sendto(reply.to_wire(), source)


Start = Callable[[Mapping[str, Mapping[str, list[str]]]], NameServers]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[NameServers] = []

    def begin(records: Mapping[str, Mapping[str, list[str]]]) -> NameServers:
        made.append(NameServers(records))
        made[-1].start()
        return made[-1]

    yield begin
    for servers in made:
        for udp in servers.sockets:
            udp.close()


def files(tmp_path: Path, resolv: str, hosts: str = "", systemd: str = "") -> NameFiles:
    paths = NameFiles(tmp_path / "hosts", tmp_path / "resolv.conf", tmp_path / "systemd")
    for path, text in zip((paths.hosts, paths.servers, paths.systemd), (hosts, resolv, systemd), strict=True):
        path.write_text(text)
    return paths


def hosts_of(found: list[tuple[Any, ...]]) -> list[str]:
    return [entry[4][0] for entry in found]


def no_system(host: str, port: int, kind: socket.SocketKind) -> list[tuple[Any, ...]]:
    raise OSError(f"libc was asked for {host}")


def names(paths: NameFiles, servers: NameServers) -> MarkedNames:
    return MarkedNames(MARK, paths, servers.port, no_system)


def test_a_name_server_is_asked_by_a_marked_socket(tmp_path: Path, start: Start) -> None:
    servers = start({"127.0.0.2": {"rpc.example.org": ["192.0.2.7", "2001:db8::7"]}})
    found = names(files(tmp_path, "nameserver 127.0.0.2\n"), servers).look_up("rpc.example.org", 443, STREAM)
    assert {entry[4][:2] for entry in found} == {("192.0.2.7", 443), ("2001:db8::7", 443)}
    assert all(entry[1] == STREAM for entry in found)


def test_the_hosts_file_and_addresses_need_no_server(tmp_path: Path, start: Start) -> None:
    servers = start({"127.0.0.2": {}})
    paths = files(tmp_path, "nameserver 127.0.0.2", "192.0.2.9 Anvil anvil.local # 192.0.2.10 rpc\nx y\n")
    look_up = names(paths, servers).look_up
    assert hosts_of(look_up("anvil", 1, STREAM)) == ["192.0.2.9"]
    assert hosts_of(look_up("192.0.2.1", 1, STREAM)) == ["192.0.2.1"]
    assert servers.asked == []


def test_search_domains_are_for_names_without_a_dot(tmp_path: Path, start: Start) -> None:
    servers = start({"127.0.0.2": {"rpc.a.test": ["192.0.2.7"], "rpc.example": ["192.0.2.8"]}})
    look_up = names(files(tmp_path, "search b.test a.test\nnameserver 127.0.0.2\n"), servers).look_up
    assert hosts_of(look_up("rpc", 1, STREAM)) == ["192.0.2.7"]
    assert servers.asked[0] == ("127.0.0.2", "rpc.b.test")
    assert hosts_of(look_up("rpc.example", 1, STREAM)) == ["192.0.2.8"]


@pytest.mark.parametrize("source", ["docker", "systemd"])
def test_the_servers_behind_one_of_this_machine_are_asked_too(
    source: str, tmp_path: Path, start: Start
) -> None:
    servers = start({"127.0.0.53": {"anvil": ["192.0.2.7"]}, "127.0.0.9": {"rpc.example": ["192.0.2.8"]}})
    comment = "# ExtServers: [127.0.0.9 host(127.0.0.53)]\n" if source == "docker" else ""
    systemd = "nameserver 127.0.0.9\n" if source == "systemd" else ""
    look_up = names(files(tmp_path, f"nameserver 127.0.0.53\n{comment}", "", systemd), servers).look_up
    assert hosts_of(look_up("rpc.example", 1, STREAM)) == ["192.0.2.8"]
    assert {server for server, _ in servers.asked} == {"127.0.0.9"}
    servers.asked.clear()
    assert hosts_of(look_up("anvil", 1, STREAM)) == ["192.0.2.7"]
    assert {server for server, _ in servers.asked} == {"127.0.0.53"}


def test_libc_and_then_the_last_addresses_are_used(tmp_path: Path, start: Start) -> None:
    servers = start({"127.0.0.2": {"rpc.example": ["192.0.2.7"]}})
    marked = names(files(tmp_path, "nameserver 127.0.0.2\n"), servers)
    with pytest.raises(OSError, match="libc was asked for other"):
        marked.look_up("other.example", 1, STREAM)
    assert hosts_of(marked.look_up("rpc.example", 1, STREAM)) == ["192.0.2.7"]
    servers.records = {"127.0.0.2": {}}
    assert hosts_of(marked.look_up("rpc.example", 1, STREAM)) == ["192.0.2.7"]
    marked.system = uplink.by_system
    assert hosts_of(marked.look_up("localhost", 1, STREAM))


def test_a_process_without_the_right_does_not_mark() -> None:
    class Refusing(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise PermissionError("not you")

    with closing(Refusing(socket.AF_INET, socket.SOCK_DGRAM)) as made:
        mark_socket(made, MARK)
        mark_socket(made, None)


def test_without_a_mark_libc_is_asked() -> None:
    assert look_up_by(None) is uplink.by_system
    assert look_up_by(MARK) == look_up_by(MARK), "connections share the last addresses"
