"""Endpoints behind a real HTTP proxy. Only the proxy can resolve their names."""

from urllib.parse import quote

import pytest
from tests.fake_chain import FakeServer
from tests.http_proxy import PASSWORD, USER, http_proxy

from dstack_vpn.adapters.chain import RpcPool
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.chain.proxy import Proxies
from dstack_vpn.errors import EndpointError

HOST = "rpc.behind-proxy.test"


def pool(chain: FakeServer, scheme: str, proxies: Proxies) -> RpcPool:
    url = f"{scheme}://{HOST}:8545/v2/s3cr3t-api-key"
    return RpcPool([url], chain.chain.contract, proxies=proxies, draw=lambda: 0.0)


async def failure(chain: FakeServer, scheme: str, proxy: str) -> str:
    with pytest.raises(EndpointError) as caught:
        async with pool(chain, scheme, Proxies(proxy, proxy)).session():
            pass
    return str(caught.value)


async def test_a_session_through_a_proxy(fake_chain: FakeServer, scheme: str) -> None:
    async with (
        http_proxy({HOST: fake_chain.address}) as proxy,
        pool(fake_chain, scheme, Proxies(proxy.url)).session() as session,
    ):
        facts = session.facts()
        first = await anext(facts)
        block = await fake_chain.chain.mine()
        assert (first, (await anext(facts)).number) == (await session.header(first.number), block.number)  # type: ignore[union-attr]  # heads only
    assert proxy.asked
    assert all(f"http://{HOST}:8545/v2/s3cr3t-api-key " in line for line in proxy.asked)


async def test_a_proxy_that_wants_a_password_gets_it(fake_chain: FakeServer, scheme: str) -> None:
    async with http_proxy({HOST: fake_chain.address}, needs_password=True) as proxy:
        login = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@"
        with_login = proxy.url.replace("//", f"//{login}")
        async with pool(fake_chain, scheme, Proxies(with_login)).session() as session:
            assert (await session.head()).hash == fake_chain.chain.head.hash


@pytest.mark.parametrize("kind", ["http", "ws", "https", "wss"])
async def test_a_proxy_that_refuses_is_named(fake_chain: FakeServer, kind: str) -> None:
    async with http_proxy({HOST: fake_chain.address}, needs_password=True) as proxy:
        told = await failure(fake_chain, kind, proxy.url.replace("//", "//me:wr0ngpass@"))
    assert "the proxy refused with HTTP status 407" in told
    assert "wr0ngpass" not in told


@pytest.mark.parametrize("kind", ["http", "ws", "https", "wss"])
async def test_a_proxy_that_is_not_there_is_named(fake_chain: FakeServer, kind: str) -> None:
    async with http_proxy({}) as proxy:
        pass
    told = await failure(fake_chain, kind, proxy.url.replace("//", "//me:p4ssw0rd@"))
    assert "the proxy can't be reached" in told
    assert "p4ssw0rd" not in told


@pytest.mark.parametrize("kind", ["https", "wss"])
async def test_tls_goes_through_a_tunnel(fake_chain: FakeServer, kind: str) -> None:
    async with http_proxy({HOST: fake_chain.address}) as proxy:
        await failure(fake_chain, kind, proxy.url)  # the fake chain has no TLS
    assert set(proxy.asked) == {f"CONNECT {HOST}:8545 HTTP/1.1"}


async def test_loopback_does_not_go_through_it(fake_chain: FakeServer, scheme: str) -> None:
    async with http_proxy({}) as proxy:
        url = fake_chain.ws if scheme == "ws" else fake_chain.http
        async with RpcPool(
            [url], fake_chain.chain.contract, proxies=Proxies(proxy.url, proxy.url)
        ).session() as session:
            await session.head()
    assert proxy.asked == []


def test_a_proxys_password_is_redacted_with_the_endpoints() -> None:
    proxies = Proxies(None, "http://pr0xyuser:pr0xypass@pr0xyk3y9999.corp.example.org:3128")
    url = RpcUrl.parse("https://rpc.example.org/v2/s3cr3tkey", proxies)
    for text in ("pr0xyuser", "pr0xypass", "cHIweHl1c2VyOnByMHh5cGFzcw==", "s3cr3tkey"):
        assert url.redact(f"x {text} x") == "x *** x"
    assert url.way.startswith("https://rpc.example.org through the proxy ...")
    assert url.way.endswith(".corp.example.org:3128")
    assert "pr0xy" not in repr(url) + url.way + url.contact[1]
    assert url.contact[0] == "pr0xyk3y9999.corp.example.org"
