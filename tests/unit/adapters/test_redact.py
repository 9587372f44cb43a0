"""Redaction of every form of a secret, at every position and in truncated texts."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest

from dstack_vpn.adapters.chain.jsonrpc import decode, excerpt
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import EndpointError

URL = RpcUrl.parse(
    "https://us%2Fer:p%40ss%20w0rd@k3y1nth3h0st9.rpc.example.org/v2/p4th%2Bkey?apikey=qu3ry/k%26y&x=ab#fr4gment"
)
PLAIN = ["us/er", "p@ss w0rd", "k3y1nth3h0st9", "p4th+key", "qu3ry/k&y", "fr4gment"]


def quoted(secret: str) -> list[str]:
    """Return the forms in which a server may quote the secret."""
    coded = base64.b64encode(secret.encode()).decode()
    return [
        *(secret, secret.upper(), quote(secret, safe=""), quote(secret), quote_plus(secret)),
        *(quote(secret, safe="").lower(), html.escape(secret), json.dumps(secret)[1:-1]),
        *(secret.replace("/", "\\/"), coded, coded.rstrip("=")),
    ]


@pytest.mark.parametrize("secret", [*PLAIN, "us/er:p@ss w0rd"])
def test_each_form_is_taken_out(secret: str) -> None:
    for form in quoted(secret):
        assert form.lower() not in URL.redact(f"bad key {form}.").lower()


@pytest.mark.parametrize("secret", PLAIN)
def test_no_part_is_left_by_a_cut(secret: str) -> None:
    for blanks in (0, 100, 115, 118, 470, 476, 479, 16_370, 16_380, 16_383):
        for kind in (str, str.encode):
            shown = excerpt(kind(" " * blanks + secret), URL.redactor)
            assert shown in {"***", ""}, (blanks, shown)


@pytest.mark.parametrize(
    "reply",
    [
        "<html>no such key {}</html>",
        "[oops {}",
        '{{"id":1,"error":{{"code":1,"message":"key {}"}}}}',
        '{{"id":1,"error":"key {}"}}',
        '{{"id":1,"error":{{"code":1,"message":"","data":"key {}"}}}}',
        '{{"id":1,"error":{{"code":1,"message":"","data":{{"message":"key {}"}}}}}}',
    ],
)
@pytest.mark.parametrize("secret", PLAIN)
def test_no_reply_brings_one_in(secret: str, reply: str) -> None:
    for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
        try:
            shown = repr(decode(reply.format(form), URL.redactor))
        except EndpointError as error:
            shown = str(error)
        assert form not in shown


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("rpc.example.org", "rpc.example.org"),
        ("base-mainnet.g.alchemy.com", "base-mainnet.g.alchemy.com"),
        ("mainnet.base.org", "mainnet.base.org"),
        ("1rpc.io", "1rpc.io"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("k3y1nth3h0st9.rpc.example.org", "...30b5.rpc.example.org"),
        ("abcdefghijklmnopqrst.example.org", "...1d2c.example.org"),
    ],
)
def test_a_host_name_keeps_what_looks_like_words(host: str, shown: str) -> None:
    name = RpcUrl.parse(f"wss://{host}/v2/key").name
    if shown.startswith("..."):
        assert name[:9] == "wss://..." and name[13:] == shown[7:]
        assert host.partition(".")[0] not in name
    else:
        assert name == f"wss://{shown}"


def test_two_endpoints_with_keys_in_their_host_names_stay_apart() -> None:
    names = {RpcUrl.parse(f"wss://k3y{n}k3y{n}k3y.example.org").name for n in range(20)}
    assert len(names) == 20


def test_the_form_in_which_a_url_is_sent_is_taken_out_too() -> None:
    url = RpcUrl.parse("https://rpc.example.org/?apikey=qu3ry%2Fk3y%22q")
    coded = base64.b64encode(b"qu3ry/k3y%22q").decode()
    assert url.redact(f"key qu3ry/k3y%22q, {coded}") == "key ***, ***"
