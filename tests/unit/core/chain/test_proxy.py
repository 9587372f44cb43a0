"""The choice of a proxy, and the hosts that are reached directly."""

import pytest

from dstack_vpn.core.chain.proxy import DIRECT, Proxies

PLAIN, SECURE = "http://plain.example:3128", "http://us3r:p4ssword@secure.example:3128"


@pytest.mark.parametrize(
    ("scheme", "proxy"), [("http", PLAIN), ("ws", PLAIN), ("https", SECURE), ("wss", SECURE)]
)
def test_the_scheme_decides(scheme: str, proxy: str) -> None:
    assert Proxies(PLAIN, SECURE).of(scheme, "rpc.example.org") == proxy
    assert DIRECT.of(scheme, "rpc.example.org") is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_always_reached_directly(host: str) -> None:
    assert Proxies(PLAIN, SECURE).of("http", host) is None
    assert Proxies(PLAIN, SECURE).of("http", "::ffff:127.0.0.1") is None


@pytest.mark.parametrize(
    ("entry", "covered", "others"),
    [
        (
            "example.org",
            ["example.org", "rpc.example.org", "RPC.Example.ORG."],
            ["badexample.org", "example"],
        ),
        (".example.org", ["example.org", "a.b.example.org"], ["example.org.net"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.10", "192.0.2.1.example.org"]),
        ("192.0.2.0/24", ["192.0.2.200"], ["192.0.3.1", "rpc.example.org", "2001:db8::1"]),
        ("2001:db8::/32", ["2001:db8::1"], ["2001:db9::1", "192.0.2.1"]),
        ("[2001:db8::1]", ["2001:db8::1"], ["2001:db8::2"]),
        ("*", ["rpc.example.org", "192.0.2.1", "2001:db8::1"], []),
        (".", [], ["rpc.example.org"]),
    ],
)
def test_exempt_hosts(entry: str, covered: list[str], others: list[str]) -> None:
    proxies = Proxies(PLAIN, SECURE, ("unrelated.example", entry))
    assert [host for host in covered if proxies.of("https", host) is not None] == []
    assert [host for host in others if proxies.of("https", host) is None] == []


def test_the_repr_shows_no_password() -> None:
    assert "p4ssword" not in repr(Proxies(PLAIN, SECURE, ("example.org",)))
