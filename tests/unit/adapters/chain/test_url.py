import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import FormatError


@pytest.mark.parametrize(
    ("text", "name", "streams"),
    [
        ("https://base.example.org/v2/s3cr3tkey", "https://base.example.org", False),
        (
            "wss://user:passw0rd@node.example.org:8546/ws?apikey=0123456789",
            "wss://node.example.org:8546",
            True,
        ),
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545", False),
        ("ws://[::1]:8546/", "ws://[::1]:8546", True),
        ("  WSS://Node.example.org  ", "wss://node.example.org", True),
    ],
)
def test_the_name_has_no_credentials(text: str, name: str, streams: bool) -> None:
    url = RpcUrl.parse(text)
    assert (url.name, url.streams) == (name, streams)


@pytest.mark.parametrize(
    "text",
    ["", "node.example.org", "ftp://x.org", "file:///etc/passwd", "http://", "ws://h:99999", "http://[::1"],
)
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        RpcUrl.parse(text)


SECRETS = ("s3cr3tkey", "passw0rd", "0123456789", "us%65rname")


def test_nothing_shows_the_secrets() -> None:
    url = RpcUrl.parse("https://us%65rname:passw0rd@node.example.org/v2/s3cr3tkey?apikey=0123456789")
    echoed = url.redact(f"invalid key in {url.raw} of username")
    assert not any(secret in repr(url) + echoed for secret in (*SECRETS, "username"))
    assert "/v2/***" in echoed


@given(st.text(max_size=60))
def test_only_format_errors_escape(text: str) -> None:
    try:
        RpcUrl.parse(text)
    except FormatError as error:
        assert len(text) < 5 or text not in str(error)
