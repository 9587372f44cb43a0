"""One host in any spelling is one endpoint."""

import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.config.parsers import sites
from dstack_vpn.core.chain.site import site_of

SAME = (
    ("https://rpc.example/one", "https://rpc.example./two"),
    ("https://rpc.example", "https://rpc.example:8443"),
    ("https://rpc.example", "wss://RPC.Example/ws"),
    ("http://localhost:8545", "http://127.0.0.1:8545"),
    ("http://localhost:8545", "ws://[::1]:8546"),
    ("http://localhost:8545", "http://node.localhost:8545"),
    ("http://127.0.0.1", "http://127.1:9"),
    ("http://127.0.0.1", "http://2130706433"),
    ("http://127.0.0.1", "http://0x7f.0.0.01"),
    ("http://127.0.0.1", "http://0.0.0.0"),
    ("http://127.0.0.1", "http://[::]"),
    ("http://127.0.0.1", "http://[::ffff:127.0.0.1]:8545"),
    ("http://192.0.2.7", "http://[::ffff:192.0.2.7]"),
    ("http://[2001:db8::1]", "http://[2001:0db8:0:0::1]:1"),
    ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
)
OTHER = (
    ("https://a.example", "https://b.example"),
    ("https://a.example", "https://x.a.example"),
    ("http://127.0.0.1:8545", "http://127.0.0.2:8545"),
    ("http://[2001:db8::1]", "http://[2001:db8::2]"),
)


@pytest.mark.parametrize(("one", "two"), SAME)
def test_one_host_in_two_spellings_is_one_endpoint_of_a_quorum(one: str, two: str) -> None:
    assert RpcUrl.parse(one).site == RpcUrl.parse(two).site
    assert len(sites([one, two])) == 1


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_two_hosts_are_two(one: str, two: str) -> None:
    assert RpcUrl.parse(one).site != RpcUrl.parse(two).site
    assert len(sites([one, two])) == 2


@given(st.from_regex(r"(0x[0-9a-f]{1,8}|[0-9]{1,10})(\.(0x[0-9a-f]{1,3}|[0-9]{1,3})){0,3}", fullmatch=True))
def test_old_forms_of_addresses_are_read_as_the_system_reads_them(text: str) -> None:
    with suppress(OSError):
        expected = socket.inet_ntoa(socket.inet_aton(text))
        assert site_of(text) == ("127.0.0.1" if expected == "0.0.0.0" else expected)


@given(st.text(max_size=40))
def test_any_text_has_a_site(text: str) -> None:
    assert isinstance(site_of(text), str)
