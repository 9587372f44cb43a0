"""Print a node's state as JSON, from inside its machine: look.py NODE_ID, with the system's Python.

`dns` is the address of the node's own name, from its DNS server on port 53 of its tunnel address.
`relay` is the TLS version that RELAY_LISTEN negotiates, on port 443. Each is null without a reply.
"""

import json
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT = 2.0
PORT_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def get(path: str) -> Any:
    """Return a document of the daemon's API, with any HTTP status."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:8080{path}", timeout=TIMEOUT) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


def resolve(name: str, server: str) -> str | None:
    """Return the address in the only A record, or None."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(TIMEOUT)
        try:
            asking.sendto(query, (server, 53))
            answer = asking.recv(512)
        except OSError:
            return None
    return socket.inet_ntoa(answer[-4:]) if answer[6:8] == b"\x00\x01" else None


def relay() -> str | None:
    """Return the TLS version, or None."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", 443), TIMEOUT) as connection:
            return context.wrap_socket(connection).version()
    except OSError:
        return None


def look(node_id: str) -> dict[str, Any]:
    """Return the node's state."""
    stats = get("/stats")
    address = next((a.partition("/")[0] for a in stats["addresses"] if "." in a), None)
    return {
        "health": {component["name"]: component for component in get("/health")["components"]},
        "public_key": stats["public_key"],
        "address": address,
        "dns": None if address is None else resolve(f"{node_id}.vpn.internal", address),
        "relay": relay(),
        "port_start": int(PORT_START.read_text()),
    }


if __name__ == "__main__":
    json.dump(look(sys.argv[1]), sys.stdout)
