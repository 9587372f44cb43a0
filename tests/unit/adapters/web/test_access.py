"""Access to the HTTP API."""

import asyncio
import ipaddress
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import make_mocked_request
from tests.unit.adapters.web.serving import TOKEN, FixedView, serving

from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.core.limits.pace import Limiter, Pace

BEARER = {"Authorization": f"Bearer {TOKEN}"}
CLOSED = Policy(TOKEN, loopback=False, proxies=())
PATHS = ("/stats", "/peers", "/peers/web-1", "/metrics", "/version", "/openapi.json", "/whois?ip=10.77.0.2")


def elsewhere(there: tuple[str, int], here: tuple[str, int]) -> None:
    """Find no owner, as for a client on another machine."""
    del there, here


async def test_the_token_lets_in_and_nothing_like_it() -> None:
    async with serving(policy=CLOSED) as served:
        for path in PATHS:
            assert await served.status(path, **BEARER) == 200
            assert await served.status(path) == 401
        for wrong in (
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer",
            "Bearer é",
        ):
            status, body, headers = await served.get("/stats", Authorization=wrong)
            assert status == 401
            assert TOKEN not in str(body)
            assert headers["WWW-Authenticate"].startswith("Bearer")


async def test_health_is_open_to_all() -> None:
    async with serving(policy=CLOSED) as served:
        for path in ("/live", "/ready", "/health"):
            assert await served.status(path) == 200


async def test_without_a_token_nobody_but_this_machine_gets_in() -> None:
    async with serving(policy=Policy(None, loopback=False)) as served:
        for sent in ("Bearer ", "Bearer None", "Bearer x"):
            assert await served.status("/stats", Authorization=sent) == 401
    async with serving(policy=Policy(None)) as served:
        assert await served.status("/stats") == 200


@pytest.mark.parametrize(
    "mark",
    ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Proto", "X-Envoy-Internal", "CF-Ray"],
)
async def test_what_a_proxy_on_this_machine_passes_on_is_not_from_this_machine(mark: str) -> None:
    async with serving(policy=Policy(TOKEN)) as served:
        assert await served.status("/stats") == 200
        assert await served.status("/stats", **{mark: "127.0.0.1"}) == 401
        assert await served.status("/stats", **{mark: "127.0.0.1"}, **BEARER) == 200


async def test_a_page_that_rebinds_its_name_reads_nothing() -> None:
    async with serving(policy=Policy(TOKEN)) as served:
        for path in ("/stats", "/health", "/live"):
            assert await served.status(path, Host="evil.example:8080") == 421
        # A web page's script can set any header.
        for path, refused in (("/stats", 401), ("/health", 421), ("/live", 421)):
            forged = {"X-Forwarded-For": "10.77.0.2"}
            assert await served.status(path, Host="evil.example:8080", **forged) == refused
        assert await served.status("/stats", Host="evil.example:8080", **BEARER) == 200
        assert await served.status("/stats", Host="localhost:8080") == 200


REBOUND = [
    {},
    {"X-Forwarded-For": "10.77.0.2"},
    {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    {"X-Forwarded-For": "10.77.0.2", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"},
    {"Authorization": "Bearer x", "X-Forwarded-For": "10.77.0.2", "Via": "1.1 proxy"},
]
"""Headers that a web page's script can set."""


@pytest.mark.parametrize("forged", REBOUND)
@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/auth", "/auth?node=web-1", "/auth/app"])
async def test_no_header_of_a_page_skips_the_rebinding_guard(path: str, forged: dict[str, str]) -> None:
    for policy in (Policy(TOKEN), Policy(TOKEN, loopback=False, users=True, is_member=lambda address: True)):
        async with serving(policy=policy) as served:
            # After rebinding, a browser sends the page's host name and our port.
            assert await served.status(path, Host=f"evil.example:{served.port}", **forged) == 421


@pytest.mark.parametrize(("peer", "status"), [("192.0.2.7", 421), ("::1", 421), ("192.0.2.8", None)])
def test_a_page_that_rebinds_its_name_to_another_address_of_this_machine_reads_nothing(
    peer: str, status: int | None
) -> None:
    ends = {"peername": (peer, 40_000), "sockname": ("192.0.2.7", 8080)}
    transport = SimpleNamespace(get_extra_info=ends.get)
    headers = {"Host": "evil.example:8080", "X-Forwarded-For": "10.77.0.2"}
    request = make_mocked_request("GET", "/health", headers, transport=transport)
    refusal = Policy(TOKEN).refusal(request, is_open=True)
    assert (refusal and refusal.status) == status


async def test_another_users_process_on_this_machine_needs_the_token_unless_all_may_ask() -> None:
    for policy, expected in (
        (Policy(TOKEN, owner=lambda *_: 33), 401),
        (Policy(TOKEN, owner=lambda *_: None), 401),
        (Policy(TOKEN, owner=lambda *_: 0), 200),
        (Policy(TOKEN, users=True, owner=lambda *_: 33), 200),
    ):
        async with serving(policy=policy) as served:
            assert await served.status("/stats") == expected
            assert await served.status("/stats", **BEARER) == 200
            assert await served.status("/live") == 200


async def test_members_get_in_where_that_is_allowed() -> None:
    # The view reports a loopback address as a member's, because a test can send from it.
    view = FixedView()
    for is_member, expected in ((None, 401), (view.is_member, 200)):
        policy = Policy(TOKEN, loopback=False, proxies=(), is_member=is_member, owner=elsewhere)
        async with serving(view, policy) as served:
            assert (await served.get("/stats", source="127.0.0.9"))[0] == expected
            assert (await served.get("/stats", source="127.0.0.8"))[0] == 401


# -- forward-auth ----------------------------------------------------------------------------------


async def test_a_proxy_learns_who_its_client_is() -> None:
    async with serving(policy=Policy(TOKEN, loopback=False)) as served:
        forwarded = {"X-Forwarded-For": "10.77.0.2", "Authorization": "Basic b3JpZ2luYWw6Y2xpZW50"}
        status, body, headers = await served.get("/auth", Host="app.example.org", **forwarded)
        assert (status, body["node"]) == (200, "web-1")
        assert headers["X-Vpn-Node"] == headers["Remote-User"] == "web-1"
        assert headers["X-Vpn-Address"] == "10.77.0.2"


@pytest.mark.parametrize(
    ("query", "client", "code"),
    [
        ("", "10.77.0.2", 200),
        ("?node=web-1", "10.77.0.2", 200),
        ("?node=db&node=web-1", "10.77.0.2", 200),
        ("?owner=0x" + "AB" * 20, "10.77.0.2", 200),
        ("?node=db", "10.77.0.2", 403),
        ("?owner=0x00", "10.77.0.2", 403),
        ("?other=1", "10.77.0.2", 403),
        ("", "10.77.0.3", 403),
        ("", "192.0.2.1", 401),
        ("", "10.77.0.2, 192.0.2.1", 401),
        ("", "nonsense", 401),
    ],
)
async def test_who_passes(query: str, client: str, code: int) -> None:
    async with serving() as served:
        assert await served.status(f"/auth{query}", **{"X-Forwarded-For": client}) == code


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_proxy_may_ask_with_its_clients_method_and_path(method: str) -> None:
    async with serving(policy=Policy(TOKEN, loopback=False)) as served:
        for client, code in (("10.77.0.2", 200), ("10.77.0.3", 403), ("192.0.2.1", 401)):
            forwarded = {"X-Forwarded-For": client, "Content-Length": "0"}
            for path in ("/auth/", "/auth/app/x?node=db&other=1"):
                assert (await served.get(path, method, **forwarded))[0] == code
        for path in ("/auth/../stats", "/auth/%2e%2e/stats"):
            assert (await served.get(path, method, **{"X-Forwarded-For": "10.77.0.2"}))[0] in {401, 405}
        assert (await served.get("/authx", method, **{"X-Forwarded-For": "10.77.0.2"}))[0] in {401, 404, 405}


async def test_a_stranger_can_not_ask_for_others() -> None:
    elsewhere = (ipaddress.ip_network("192.0.2.0/24"),)
    async with serving(policy=Policy(TOKEN, loopback=False, proxies=elsewhere)) as served:
        assert await served.status("/auth", **{"X-Forwarded-For": "10.77.0.2"}) == 401
        # The token allows the request. The forwarded address is still ignored.
        assert await served.status("/auth", **{"X-Forwarded-For": "10.77.0.2"}, **BEARER) == 401


async def test_a_proxys_clients_do_not_use_each_other_up() -> None:
    async with serving() as served:
        served.server._proxied = Limiter(Pace(rate=0.01, longest=0.1))
        flood = {"X-Forwarded-For": "192.0.2.1"}
        answers = await asyncio.gather(*(served.status("/auth", **flood) for _ in range(45)))
        assert set(answers) == {401, 403}  # nginx turns a 429 into a 500
        assert await served.status("/auth", **{"X-Forwarded-For": "10.77.0.2"}) == 200


def test_no_repr_shows_the_token() -> None:
    assert TOKEN not in repr(Policy(TOKEN))
