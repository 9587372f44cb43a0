"""Ten more nodes by `docker compose up --scale`: each registers itself, and reaches all others."""

import json
from concurrent.futures import ThreadPoolExecutor

from scripts.stack import Stack, docker, wait_for

REPLICAS = 10
PING = (
    "import json, socket, sys\n"
    "missing = json.loads(sys.argv[1])\n"
    "for address in list(missing):\n"
    "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); s.settimeout(6)\n"
    "    s.sendto(bytes([8, 0, 0xf7, 0xfe, 0, 0, 0, 1]), (address, 0))\n"  # the kernel sets the id
    "    try: s.recv(64); missing.remove(address)\n"
    "    except TimeoutError: pass\n"
    "print(len(missing))"
)
"""Ping each address: the profile's policy permits that between all members."""


def test_ten_replicas_are_a_full_mesh(stack: Stack) -> None:
    try:
        stack.compose("up", "-d", "--no-build", "--no-recreate", "--scale", f"node={REPLICAS}", "--wait")
        containers = stack.containers("node")
        assert len(containers) == REPLICAS
        listed = stack.node("node", "list", "--json")
        members = [node["node_id"] for node in _nodes(listed)]
        hosts = {docker("exec", c, "cat", "/etc/hostname").strip() for c in containers}
        assert hosts < set(members), "each under its own name"
        addresses = {
            node["node_id"]: next(a for a in node["addresses"] if ":" not in a).partition("/")[0]
            for node in _nodes(listed)
            if node["node_id"] in hosts
        }
        with ThreadPoolExecutor(4) as pool:
            for missing in pool.map(lambda c: unreached(c, list(addresses.values())), containers):
                assert missing == 0
    finally:
        stack.compose("rm", "-s", "-f", "-v", "node")  # with their state volumes


def unreached(container: str, addresses: list[str]) -> int:
    command = ("exec", container, "/usr/bin/python3", "-c", PING, json.dumps(addresses))
    wait_for("all are reached", lambda: docker(*command).strip() == "0", 60)
    return 0


def _nodes(listed: str) -> list[dict[str, list[str] | str]]:
    document = json.loads(listed)
    nodes = document if isinstance(document, list) else document["nodes"]
    return list(nodes)
