"""The HTTP server, with independent clients."""

import asyncio
import contextlib
import time
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs
from tests.unit.adapters.web.serving import ILL, WELL, FixedView, serving, until

from dstack_vpn.adapters.web import server as web_server
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.server import of_view
from dstack_vpn.core.limits.pace import Limiter, Pace
from dstack_vpn.core.limits.shares import Shares
from dstack_vpn.core.observe.health import Health


class RelayView:
    """A view of a process without the API."""

    def health(self) -> Health:
        return WELL

    def stats(self) -> dict[str, int]:
        return {"datagrams_up": 3}

    def metrics(self) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", b"x 1\n"


@pytest.mark.parametrize(("health", "code"), [(WELL, 200), (ILL, 503)])
async def test_codes_and_reasons(health: Health, code: int) -> None:
    async with serving(health=health) as served:
        assert (await served.get("/live"))[:2] == (200, {"live": True})
        assert (await served.get("/ready"))[:2] == (code, {"ready": health.ready})
        status, body, _ = await served.get("/health")
        assert status == code
        assert body["components"][0]["reason"] == health.components[0].reason
        assert body["components"][0]["since"] == health.components[0].since


async def test_a_process_without_an_api_shows_what_it_has() -> None:
    async with serving(parts=(of_view(RelayView()),)) as served:
        assert (await served.get("/stats"))[:2] == (200, {"datagrams_up": 3})
        assert (await served.get("/metrics"))[1] == "x 1\n"
        assert await served.status("/peers") == 404


async def test_nothing_but_reading_is_allowed() -> None:
    async with serving() as served:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, body, headers = await served.get("/health", method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD")
            assert "only GET" in body["error"]
        assert (await served.get("/health", "HEAD"))[0] == 200


async def test_every_answer_forbids_what_it_can() -> None:
    async with serving() as served:
        for path in ("/health", "/stats", "/nothing"):
            _, _, headers = await served.get(path)
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Server"] == "dstack-vpn"
            assert "Access-Control-Allow-Origin" not in headers


async def test_a_bug_in_an_answer_is_a_line_in_the_log() -> None:
    async with serving(FixedView(broken=True)) as served:
        with capture_logs() as lines:
            status, body, _ = await served.get("/stats")
        assert status == 500
        assert "bug" not in str(body)
        assert await served.status("/health") == 200
    assert [line["event"] for line in lines] == ["web.failed"]


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: 1\r\n" * 200 + b"\r\n",
        b"\0\1\2\3\r\n\r\n",
    ],
    ids=["line", "field", "fields", "nonsense"],
)
async def test_heads_are_bounded(head: bytes) -> None:
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head)
        assert (await asyncio.wait_for(reader.read(20), 5))[9:12] == b"400"
        writer.close()
        assert await served.status("/live") == 200


async def test_a_body_is_refused() -> None:
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
        assert (await asyncio.wait_for(reader.read(20), 5))[9:12] == b"413"
        writer.close()


@pytest.mark.parametrize(
    "said", [b"", b"GET /live HTTP/1.1\r\nHost: loc", b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
async def test_who_does_not_ask_is_hung_up_on(said: bytes) -> None:
    async with serving(patience=0.2) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(said)
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        assert len(served.server.connections) <= 1
        writer.close()


async def test_connections_are_bounded_and_others_are_let_in_again() -> None:
    async with serving(policy=Policy(proxies=())) as served:
        served.server.connections._places.shares = Shares(512, each=3, ours=3)
        served.server.connections._lobby.shares = Shares(0, each=0)
        open_ = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.close()
        assert served.server.connections.refused == 1
        for _, each in open_:
            each.close()
        await until(lambda: not len(served.server.connections))
        assert await served.status("/live") == 200


async def test_who_asks_too_much_is_slowed_down_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        served.server._checks = Limiter(Pace(rate=50))
        moment = time.monotonic()
        # The clock does not advance, so the limiter gains no allowance.
        monkeypatch.setattr(web_server, "time", SimpleNamespace(monotonic=lambda: moment))
        statuses = await asyncio.gather(*(served.status("/live") for _ in range(95)))
        # A burst of 40, and the 50 requests of the longest delay of 1 s.
        assert statuses.count(200) == pytest.approx(90, abs=1)
        assert statuses.count(200) + statuses.count(429) == 95
