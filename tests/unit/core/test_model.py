"""The parsers accept valid text and refuse malformed and hostile text."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.model import Endpoint, parse_node_id
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.errors import FormatError

KEY = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY[:-1],
        KEY + "\n",
        "\n" + KEY,
        KEY + KEY,
        KEY.replace("I=", "J="),  # the same bytes, not canonical
        KEY.replace("A", "-", 1),
        "A" * 43 + "=",  # all zeros
        "A" * 1_000_000,
        KEY[:-2] + "é=",
    ],
)
def test_a_malformed_public_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        PublicKey.parse(text)


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_keys_survive_a_round_trip(raw: bytes) -> None:
    parsed = PublicKey.parse(str(PublicKey(raw)))
    assert parsed == raw
    assert hash(parsed) == hash(PublicKey(raw))


def test_a_private_key_shows_itself_nowhere() -> None:
    secret = PrivateKey.parse(KEY)
    assert KEY not in f"{secret!r} {secret}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(FormatError) as caught:
        PrivateKey.parse(KEY + " ")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("text", ["web", "web-1", "a", "A.b_c-9", "x" * 63])
def test_a_node_id_is_accepted(text: str) -> None:
    assert parse_node_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 64,
        "-a",
        "a-",
        "a b",
        "a\n",
        "a/b",
        "../etc",
        "$(id)",
        "a'b",
        'a"b',
        "ä",
        "a\x00",
        "\x1b[31m",
        "a;b",
    ],
)
def test_a_hostile_node_id_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_node_id(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:51820", "192.0.2.1", 51820),
        ("vpn.example.org:1", "vpn.example.org", 1),
        ("[2001:DB8::1]:65535", "2001:db8::1", 65535),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("my_host.internal.:5", "my_host.internal.", 5),
    ],
)
def test_an_endpoint_is_accepted(text: str, host: str, port: int) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":51820",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:1 ",
        "host:\uff11",  # a full-width digit
        "http://host:80",
        "https://evil.example/x:1",
        "127.0.0.1:51820",
        "localhost:51820",
        "sub.localhost:51820",
        "[::1]:51820",
        "[::ffff:127.0.0.1]:51820",
        "0.0.0.0:51820",
        "[::]:51820",
        "224.0.0.1:51820",
        "::1:51820",
        "[fe80::1%eth0]:51820",
        "[nonsense]:51820",
        "127.1:51820",
        "0x7f.1:51820",
        "2130706433:51820",
        "a..b:1",
        "host\n:1",
        "ho st:1",
        "user@host:1",
        "x" * 300 + ":1",
    ],
)
def test_a_hostile_endpoint_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Endpoint.parse(text)


@given(st.text(max_size=80))
def test_only_format_errors_escape_the_parsers(text: str) -> None:
    for parse in (PublicKey.parse, PrivateKey.parse, parse_node_id, Endpoint.parse):
        try:
            parse(text)
        except FormatError as error:
            assert "\n" not in str(error)
