"""The client's address, with and without trusted proxies."""

import ipaddress

import pytest

from dstack_vpn.adapters.web.client import (
    forwarded_client,
    is_plain_host,
    names_our_port,
    parse_address,
)
from dstack_vpn.core.limits.shares import Network
from dstack_vpn.errors import FormatError

PROXIES: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
    ipaddress.ip_network("172.18.0.0/16"),
)


def client(peer: str, *forwarded: str, real: tuple[str, ...] = ()) -> str:
    return str(forwarded_client(parse_address(peer), forwarded, real, PROXIES))


def test_a_stranger_speaks_for_itself_only() -> None:
    assert client("192.0.2.1", "10.77.0.2", real=("10.77.0.2",)) == "192.0.2.1"


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "172.18.0.9"])
def test_a_proxy_speaks_for_its_client(peer: str) -> None:
    assert client(peer, "10.77.0.2") == "10.77.0.2"


def test_what_the_client_has_made_up_is_not_believed() -> None:
    assert client("127.0.0.1", "10.77.0.2, 192.0.2.1") == "192.0.2.1"
    assert client("127.0.0.1", "10.77.0.2", "192.0.2.1") == "192.0.2.1"
    assert client("127.0.0.1", "10.77.0.2, 192.0.2.1, 172.18.0.3") == "192.0.2.1"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.77.0.2:4711", "10.77.0.2"),
        ("[fd00::2]:4711", "fd00::2"),
        ("fd00::2", "fd00::2"),
        ("::ffff:10.77.0.2", "10.77.0.2"),
    ],
)
def test_notations(text: str, found: str) -> None:
    assert client("127.0.0.1", text) == found


def test_the_other_header_has_to_agree() -> None:
    assert client("127.0.0.1", "10.77.0.2", real=("10.77.0.2",)) == "10.77.0.2"
    assert client("127.0.0.1", real=("10.77.0.2",)) == "10.77.0.2"
    for real in (("10.77.0.3",), ("10.77.0.2", "10.77.0.3")):
        with pytest.raises(FormatError, match="differ"):
            client("127.0.0.1", "10.77.0.2", real=real)
    with pytest.raises(FormatError):
        client("127.0.0.1", real=("10.77.0.2", "10.77.0.3"))


@pytest.mark.parametrize(
    "forwarded",
    ["", "unknown", "10.77.0.2, _hidden", "127.0.0.1", ",".join(["192.0.2.1"] * 17), "10.77.0.2,"],
)
def test_what_can_not_be_told_is_refused(forwarded: str) -> None:
    with pytest.raises(FormatError):
        client("127.0.0.1", forwarded)


@pytest.mark.parametrize(
    "host", [None, "127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "::1", "LOCALHOST:1"]
)
def test_hosts_of_this_machine(host: str | None) -> None:
    assert is_plain_host(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.x"]
)
def test_hosts_of_somebody_else(host: str) -> None:
    assert not is_plain_host(host)


def test_names_of_our_own_zone_are_ours() -> None:
    assert is_plain_host("web-1.vpn.internal:8080", "vpn.internal")
    assert not is_plain_host("web-1.vpn.internal", None)
    assert not is_plain_host("evil-vpn.internal", "vpn.internal")


@pytest.mark.parametrize(
    ("host", "port", "ours"),
    [
        ("evil.example:8080", 8080, True),
        ("[::1]:8080", 8080, True),
        ("evil.example", 80, True),
        ("app.example.org", 8080, False),
        ("app.example.org:8443", 8080, False),
        ("::1", 8080, False),
        (None, 8080, False),
    ],
)
def test_a_browser_names_the_port_that_it_asks_at(host: str | None, port: int, *, ours: bool) -> None:
    assert names_our_port(host, port) is ours
