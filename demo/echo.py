"""TCP servers that send back what they receive, and connections to them."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from demo.node import LabNode

_SERVER: Final = """
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
servers = [socket.create_server((sys.argv[1], int(port)), family=family) for port in sys.argv[2:]]
def serve(one):
    with one:
        while data := one.recv(4096):
            one.sendall(data)
def accept(server):
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
for server in servers:
    threading.Thread(target=accept, args=(server,)).start()
print("up", flush=True)
"""


def start_echo(node: LabNode, address: str, *ports: int) -> "subprocess.Popen[str]":
    """Start a server on some ports, and return when it listens."""
    arguments = address, *map(str, ports)
    server = node.namespace.popen(
        *(sys.executable, "-c", _SERVER, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it may outlive this process and its terminal
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    return server


@contextlib.contextmanager
def serving(node: LabNode, address: str, *ports: int) -> Iterator[None]:
    """Run a server."""
    server = start_echo(node, address, *ports)
    try:
        yield
    finally:
        server.kill()
        server.wait(10)


def connect(node: LabNode, address: str, port: int, wait: float = 1.0) -> socket.socket | None:
    """Open a connection; None if none is possible within some seconds."""
    with node.namespace.entered():
        try:
            return socket.create_connection((address, port), timeout=wait)
        except OSError:
            return None


def echoes(connection: socket.socket, wait: float = 2.0) -> bool:
    """Return whether the other end answers."""
    connection.settimeout(wait)
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"
    except TimeoutError:
        return False
