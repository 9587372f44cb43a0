"""Requests to the HTTP API and their answers."""

import pytest
from tests.unit.adapters.web.serving import serving

from dstack_vpn.core.wireguard.keys import PublicKey

KEY = str(PublicKey(b"\1" * 32)).replace("+", "%2B")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/peers/web-1", 200),
        ("/peers/db", 404),
        ("/peers/-db", 400),
        ("/peers/a%2Fb", 400),
        ("/peers/%00", 400),
        ("/decisions?node=web-1", 200),
        (f"/decisions?key={KEY}", 200),
        ("/decisions?ip=fd00::2", 200),
        ("/decisions", 400),
        ("/decisions?node=a&ip=10.77.0.2", 400),
        ("/decisions?node=a&node=b", 400),
        ("/decisions?name=a", 400),
        ("/decisions?key=short", 400),
        ("/decisions?ip=10.77.0", 400),
        ("/whois?ip=10.77.0.2", 200),
        ("/whois?ip=::ffff:10.77.0.2", 200),
        ("/whois?ip=10.77.0.9", 404),
        ("/whois", 400),
        ("/events?backlog=x", 400),
        ("/events?backlog=2049", 400),
        ("/events?wait=-1", 400),
        ("/events?wait=1e3", 400),
    ],
)
async def test_questions(path: str, code: int) -> None:
    async with serving() as served:
        status, body, _ = await served.get(path)
        assert status == code
        if code >= 400:
            assert body["error"]


@pytest.mark.parametrize("plus", ["+", "%2B", "%20"])
async def test_a_key_may_have_a_raw_plus(plus: str) -> None:
    key = PublicKey(b"\xfb" * 32)
    assert str(key).count("+") > 1
    async with serving() as served:
        code, found = (await served.get(f"/decisions?key={str(key).replace('+', plus)}"))[:2]
    assert (code, found) == (200, {"subject": "PublicKey"})


async def test_what_was_asked_is_never_taken_for_something_else() -> None:
    async with serving() as served:
        assert (await served.get("/decisions?node=10.77.0.2"))[1] == {"subject": "str"}
        assert (await served.get("/decisions?ip=10.77.0.2"))[1] == {"subject": "IPv4Address"}
