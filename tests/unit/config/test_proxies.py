"""The proxy variables, with the same meaning as in other programs."""

import pytest

from dstack_vpn.config import child, load
from dstack_vpn.core.chain.proxy import DIRECT, Proxies
from dstack_vpn.errors import ConfigError

URLS = {"RPC_URL": "https://rpc.example.org/KEY,ws://other.example.org"}
A, B = "http://a.example:3128", "http://us3r:p4ssword@b.example:3128"


def proxies(**environment: str) -> Proxies:
    return load({}, URLS | environment).proxies


@pytest.mark.parametrize(
    ("environment", "plain", "secure"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": A}, None, A),
        ({"https_proxy": A, "HTTPS_PROXY": B}, None, A),
        ({"http_proxy": A}, A, None),
        ({"HTTP_PROXY": A, "https_proxy": B}, A, B),
        ({"ALL_PROXY": A}, A, A),
        ({"all_proxy": A, "https_proxy": B}, A, B),
        ({"https_proxy": "a.example:3128"}, None, A),
        ({"https_proxy": "", "HTTPS_PROXY": " "}, None, None),
    ],
)
def test_variables(environment: dict[str, str], plain: str | None, secure: str | None) -> None:
    assert proxies(**environment) == Proxies(plain, secure)


def test_exemptions_are_separated_by_commas_or_blanks() -> None:
    assert proxies(no_proxy="a.example, .b.example 192.0.2.0/24,").exempt == (
        "a.example",
        ".b.example",
        "192.0.2.0/24",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("socks5://10.0.0.1:1080", "SOCKS proxies are not supported"),
        ("socks5h://us3r:p4ssword@10.0.0.1:1080", "SOCKS proxies are not supported"),
        ("ftp://proxy.example", "expected the URL of an HTTP proxy"),
        ("http://us3r:p4ssword@", "expected the URL of an HTTP proxy"),
        ("http://us3r:p4ssword@proxy.example:port", "not a URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(text: str, problem: str) -> None:
    for name in ("HTTPS_PROXY", "all_proxy"):
        with pytest.raises(ConfigError, match=f"{name.upper()}: {problem}") as caught:
            load({}, {"RPC_URL": "https://rpc.example.org", name: text})
        assert len(caught.value.problems) == 1
        assert "p4ssword" not in str(caught.value)


def test_a_proxy_that_no_endpoint_uses_is_not_judged() -> None:
    socks = "socks5://10.0.0.1:1080"
    assert load({}, URLS | {"ALL_PROXY": socks, "NO_PROXY": "example.org"}).proxies.plain == socks
    assert load({}, {"RPC_URL": "http://127.0.0.1:8545", "ALL_PROXY": socks}).proxies.plain == socks


def test_commands_find_the_daemons_proxies_and_a_shells_own_come_first() -> None:
    last = load({}, URLS | {"https_proxy": B, "no_proxy": "other.example.org"}).texts
    assert load({}, {}, last=last).proxies == Proxies(None, B, ("other.example.org",))
    assert load({}, {"HTTPS_PROXY": A}, last=last).proxies == Proxies(None, A)
    assert load({}, {}).proxies == DIRECT


def test_no_repr_shows_a_password() -> None:
    assert "p4ssword" not in repr(load({}, URLS | {"https_proxy": B}))


def test_the_process_that_changes_our_key_has_the_same_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", B)
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert {"https_proxy": B, "NO_PROXY": "example.org"}.items() <= child.environment().items()
