"""Questions and answers."""

from typing import Any

import pytest
from tests.unit.adapters.web.serving import FixedView, serving

from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.api import Api
from dstack_vpn.adapters.web.attestation import Attestation
from dstack_vpn.adapters.web.openapi import document
from dstack_vpn.adapters.web.server import OPEN
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import AgentError

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


async def _attest(key: PublicKey) -> dict[str, Any]:
    return {"public_key": str(key)}


async def test_an_attestation_is_asked_for_once_and_where_there_is_none_that_is_said() -> None:
    asked: list[PublicKey] = []
    keys = [PublicKey(bytes([1]) * 32)]

    async def attest(key: PublicKey) -> dict[str, Any]:
        asked.append(key)
        if len(asked) == 1:
            raise AgentError("the guest agent does not answer")
        return {"public_key": str(key)}

    async with serving(FixedView(), parts=(Attestation(lambda: keys[0], attest),)) as served:
        status, said, _ = await served.get("/attestation")
        assert (status, said) == (503, {"error": "the guest agent does not answer"})
        for _ in range(2):
            assert (await served.get("/attestation"))[1] == {"public_key": str(keys[0])}
        keys[0] = PublicKey(bytes([2]) * 32)
        assert (await served.get("/attestation"))[1] == {"public_key": str(keys[0])}
        assert len(asked) == 3
    async with serving(FixedView(), parts=(Attestation(lambda: keys[0], None),)) as served:
        assert await served.status("/attestation") == 404


async def test_the_description_names_every_path_and_nothing_else() -> None:
    view = FixedView()
    attestation = Attestation(lambda: PublicKey(bytes(32)), _attest)
    async with serving(view, parts=(Api(view, Policy()), attestation)) as served:
        _, described, _ = await served.get("/openapi.json")
        assert described == document("1.2.3")
        assert described["info"]["version"] == "1.2.3"
        for path, operations in described["paths"].items():
            wait = "?wait=0" if path == "/events" else ""
            assert await served.status(path.replace("{node}", "web-1") + wait) in {200, 400, 401}
            assert list(operations) == ["get"]
            assert (operations["get"]["security"] == []) is (path in OPEN)
