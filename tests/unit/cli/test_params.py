"""Arguments that the commands refuse before they send a transaction or a query."""

import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn.cli.params import parse_flow, parse_moment, parse_token_uri
from dstack_vpn.errors import FormatError

KEY = "nOKUqvjA3kwlcXOy3vhPvL1TBVsDVU8sLIjAUZ3ckHc="
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
SIGNS = {"CONTRACT_PRIVATE_KEY": "0x" + "11" * 32}
BIG = "x" * 2**20

BAD_KEYS = [
    *("", "x", KEY[:-1], KEY + "=", KEY + "\n", "\n" + KEY, KEY[:20] + "\n" + KEY[20:], " " + KEY, BIG),
    KEY.replace("c=", "d="),  # not canonical
    "A" * 43 + "=",  # all zeros
    KEY.replace("=", "\u1680"),
]
BAD_NODE_IDS = [
    *("", "-web", "a" * 64, "web\n", "web\0x", "web;reboot", "$(reboot)", "`id`", "../etc/passwd", "a b"),
    *("'web'", '"web"', "wéb", "\x1b[31mweb", "web|cat", BIG),
]
BAD_ADDRESSES = ["", "0x", TO[:-1], TO + "0", TO + "\n", TO[2:], "0x" + "g" * 40, "vitalik.eth", BIG]
BAD_ENDPOINTS = [
    *("http://a.example:1", "a.example", "a.example:", "a.example:0", "a.example:65536", ":51820", "1.2.3:4"),
    *("127.0.0.1:51820", "localhost:51820", "[::1]:51820", "a.example:1\n", "a b:1", "a.example:1;id", BIG),
]
BAD_TIMES = [
    "",
    "0",
    "-1",
    "1e9",
    "+",
    "+1",
    "+1y",
    "-30d",
    "tomorrow",
    "2027-13-01",
    "9" * 21,
    "1969-01-01",
    BIG,
]


def register(node_id: str = "web", to: str = TO, key: str = KEY, *more: str) -> tuple[str, ...]:
    return ("node", "register", "--to", to, "--public-key", key, *more, "--", node_id)


LONG_ENDPOINT = ",".join(f"tls://vpn.example.org:{port}?pin=sha256:{'ab' * 32}" for port in (1, 2, 3))
"""An endpoint that is longer than the contract's field."""
REFUSED = [
    ("node", "set-endpoint", "web", LONG_ENDPOINT),
    *(register(key=key) for key in BAD_KEYS),
    *(register(node_id) for node_id in BAD_NODE_IDS),
    *(register(to=address) for address in BAD_ADDRESSES),
    *(register("web", TO, KEY, "--endpoint", endpoint) for endpoint in BAD_ENDPOINTS),
    *(register("web", TO, KEY, "--token-uri", uri) for uri in ("a b", "a\n", "é", BIG)),
    register("web", TO, KEY, "--token-uri", "ipfs://x", "--endpoint", "a.example:1"),
    *(("node", "update-key", "--public-key", key, "--", "web") for key in BAD_KEYS),
    *(("node", "set-endpoint", "--", "web", endpoint) for endpoint in BAD_ENDPOINTS),
    *(("node", "set-expiry", "--", "web", time) for time in BAD_TIMES),
    *(("node", "revoke", "--yes", "--", name) for name in (*BAD_NODE_IDS, "token:x", "token:", "9" * 79)),
    *(("node", "transfer", "--yes", "--to", address, "--", "web") for address in BAD_ADDRESSES),
    *(("node", "info", "--", name) for name in BAD_NODE_IDS),
    *(("node", "verify", "--", name) for name in BAD_NODE_IDS),
    *(("contract", "deploy", "--owner", address) for address in BAD_ADDRESSES),
    *(("node", "revoke", "web", "--timeout", text) for text in ("0", "-1", "x", "nan")),
    ("node",),
    ("node", "rename", "web"),
    ("node", "register", "web"),
    ("contract", "destroy"),
]


def _named(arguments: tuple[str, ...]) -> str:
    return " ".join(repr(word[:20]) for word in arguments)


@pytest.mark.parametrize("arguments", REFUSED, ids=_named)
def test_a_bad_argument_is_one_clear_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    ran = cli(*arguments, **SIGNS)
    assert ran.code == 2, ran
    assert ran.out == ""
    assert len(ran.err) < 2000
    assert "can't be reached" not in ran.err
    assert not any(c for c in ran.err if c != "\n" and not c.isprintable())
    assert "11" * 32 not in ran.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("never", 0),
        ("1", 1),
        ("4102444800", 4102444800),
        ("2100-01-01", 4102444800),
        ("2100-01-01T00:00:00Z", 4102444800),
        ("2100-01-01T02:00:00+02:00", 4102444800),
        ("2100-01-01 00:00", 4102444800),
        ("+90s", 1090),
        ("+5m", 1300),
        ("+12h", 44200),
        ("+30d", 2593000),
        ("+1w", 605800),
    ],
)
def test_a_time_is_what_it_says(text: str, seconds: int) -> None:
    assert parse_moment(text)(1000.9) == seconds


def test_the_longest_token_uri_is_the_contracts() -> None:
    assert parse_token_uri("x" * 2048)
    with pytest.raises(FormatError, match="2048"):
        parse_token_uri("x" * 2049)


def test_a_good_argument_gets_as_far_as_the_chain(cli: Cli) -> None:
    for arguments in (register(), ("node", "revoke", "web", "--yes"), ("contract", "deploy")):
        ran = cli(*arguments, **SIGNS)
        assert ran.code == 1
        assert "error: http://127.0.0.1:9: the endpoint can't be reached" in ran.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [("tcp:5432", "tcp:5432"), ("udp:65535", "udp:65535"), ("icmp", "icmp:*"), ("icmp:*", "icmp:*")],
)
def test_the_protocol_and_port_of_a_connection(text: str, shown: str) -> None:
    assert str(parse_flow(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "*", "tcp", "tcp:", "tcp:*", "tcp:0", "tcp:1-2", "gre:1", "icmp:8", BIG]
)
def test_a_connection_has_one_port(text: str) -> None:
    with pytest.raises(FormatError, match="expected"):
        parse_flow(text)
