"""Bounded reads of HTTP bodies."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dstack_vpn.adapters.bodies import BodyTooLongError, read_bounded


@pytest.mark.parametrize("compress", [False, True])
async def test_a_body_is_read_up_to_the_limit(*, compress: bool) -> None:
    """The limit applies to the decompressed size of a compressed body."""

    async def handle(_: web.Request) -> web.Response:
        response = web.Response(body=b"a" * 1000)
        if compress:
            response.enable_compression(web.ContentCoding.gzip)
        return response

    app = web.Application()
    app.router.add_get("/", handle)
    async with TestClient(TestServer(app)) as client:
        async with client.get("/") as response:
            assert await read_bounded(response.content, 1000) == b"a" * 1000
        async with client.get("/") as response:
            with pytest.raises(BodyTooLongError, match="exceeds 999 bytes"):
                await read_bounded(response.content, 999)
