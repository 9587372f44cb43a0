"""Sessions to a fake chain. The URL contains a secret."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.fake_chain import FakeServer

from dstack_vpn.adapters.chain import RpcPool, RpcSession

DEADLINE = 10.0
SECRET = "s3cr3t-api-key"


def pool_of(server: FakeServer, scheme: str, **options: object) -> RpcPool:
    url = f"{server.ws if scheme == 'ws' else server.http}/v2/{SECRET}"
    return RpcPool([url], server.chain.contract, poll_interval=0.02, **options)  # type: ignore[arg-type]  # tests pass any option


@asynccontextmanager
async def connected(server: FakeServer, scheme: str, **options: object) -> AsyncIterator[RpcSession]:
    async with pool_of(server, scheme, **options).session() as session:
        assert isinstance(session, RpcSession)
        yield session
