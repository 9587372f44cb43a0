"""The HTTP endpoint, by a client that is not ours."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from dstack_vpn.adapters.web.server import HealthServer
from dstack_vpn.core.health import Component, Health, Status
from dstack_vpn.errors import DstackVpnError


@dataclass
class FixedView:
    verdict: Health

    def health(self) -> Health:
        return self.verdict

    def stats(self) -> dict[str, Any]:
        return {"peers": []}


WELL = Health(ready=True, components=(Component("chain", Status.OK),))
ILL = Health(ready=False, components=(Component("chain", Status.FAILED, "no endpoint", 5.0),))


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with asyncio.TaskGroup() as group:
        server = group.create_task(HealthServer(FixedView(health), "127.0.0.1", port).run())
        async with asyncio.timeout(5):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}"
        server.cancel()


async def get(url: str, method: str = "GET") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as client, client.request(method, url) as reply:
        return reply.status, await reply.json(content_type=None) if reply.status != 405 else None


@pytest.mark.parametrize(("health", "code"), [(WELL, 200), (ILL, 503)])
async def test_codes_and_reasons(health: Health, code: int) -> None:
    async with serving(health) as url:
        assert await get(f"{url}/live") == (200, {"live": True})
        assert await get(f"{url}/ready") == (code, {"ready": health.ready})
        status, body = await get(f"{url}/health")
        assert status == code
        assert body["components"][0]["reason"] == health.components[0].reason
        assert await get(f"{url}/stats") == (200, {"peers": []})
        assert await get(f"{url}/peers") == (200, {"peers": []})


async def test_nothing_but_reading_is_allowed() -> None:
    async with serving(WELL) as url:
        for method in ("POST", "PUT", "DELETE"):
            assert (await get(f"{url}/health", method))[0] == 405


async def test_a_port_in_use_is_said_with_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DstackVpnError, match="HEALTH_CHECK_PORT"):
            await HealthServer(FixedView(WELL), "127.0.0.1", port).run()
