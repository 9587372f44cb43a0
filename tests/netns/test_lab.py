"""The network of the demo and of these tests."""

import pytest
from demo.lab import Lab

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
_CONNECT = "import socket; socket.create_connection(('{}', {}), 2).close()"


def test_a_member_with_a_lower_mac_leaves_the_others_connected(empty_lab: Lab) -> None:
    lab = empty_lab
    members = {name: lab.add_namespace(name)[0] for name in ("first", "second", "third")}
    for name, mac in (("first", "0a:00:00:00:00:03"), ("second", "0a:00:00:00:00:02")):
        lab.chain.namespace.run("ip", "link", "set", f"to-{name}", "address", mac)
    host, port = lab.chain.url.rpartition("/")[2].split(":")
    connect = ("python3", "-c", _CONNECT.format(host, port))
    members["first"].run(*connect)

    lab.chain.namespace.run("ip", "link", "set", "to-third", "address", "00:00:00:00:00:01")
    members["first"].run(*connect)
