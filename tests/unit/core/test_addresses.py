"""IP addresses, host names and ``host:port`` as text."""

import pytest

from dstack_vpn.core.addresses import bracketed, parse_host_name, parse_ip, split_host_port, unmapped
from dstack_vpn.errors import FormatError


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("vpn.example.org:51820", ("vpn.example.org", 51820)),
        ("localhost:1", ("localhost", 1)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("[2001:DB8::0:1]:443", ("2001:db8::1", 443)),
    ],
)
def test_a_host_and_a_port_are_split(text: str, want: tuple[str, int]) -> None:
    assert split_host_port(text) == want
    assert split_host_port(f"{bracketed(want[0])}:{want[1]}") == want


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a.example.org",
        "a.example.org:",
        "a.example.org:0",
        "a.example.org:65536",
        "a.example.org:٣",
        "2001:db8::1:443",
        "[192.0.2.1]:443",
        "[a.example.org]:443",
        "127.1:443",
        "0x7f.1:443",
        "a..example.org:443",
        "a b:443",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        split_host_port(text)


def test_port_0_is_for_listening_only() -> None:
    assert split_host_port("127.0.0.1:0", lowest=0) == ("127.0.0.1", 0)


def test_a_host_name_has_at_most_253_characters() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert parse_host_name(longest) == longest
    with pytest.raises(FormatError):
        parse_host_name(f"a.{longest}")


def test_only_a_mapped_address_becomes_ipv4() -> None:
    for text, want in (("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("10.0.0.1",) * 2):
        address = parse_ip(text)
        assert address is not None
        assert str(unmapped(address)) == want
    assert parse_ip("a.example.org") is None
