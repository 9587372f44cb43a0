"""The daemon's endpoints and the commands, through an HTTP proxy from the environment."""

import asyncio
import os
import sys

import pytest
from tests.anvil import Anvil
from tests.fake_chain import FakeServer
from tests.http_proxy import http_proxy
from tests.integration.test_admin_cli import KEYS

from dstack_vpn.config import load
from dstack_vpn.wiring.daemon import chain_source

HOST = "rpc.behind-proxy.test"


async def run(environment: dict[str, str], *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dstack_vpn", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.defpath, "NETWORK": "local", **environment},
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.parametrize(
    ("scheme", "variable"), [("http", "HTTP_PROXY"), ("ws", "http_proxy"), ("ws", "ALL_PROXY")]
)
async def test_the_daemons_endpoints(fake_chain: FakeServer, scheme: str, variable: str) -> None:
    async with http_proxy({HOST: fake_chain.address}) as proxy:
        settings = load(
            {},
            {
                "NETWORK": "local",
                "RPC_URL": f"{scheme}://{HOST}",
                "CONTRACT_ADDRESS": fake_chain.chain.contract,
                variable: proxy.url,
            },
        )
        async with chain_source(settings).session() as session:
            assert (await session.head()).hash == fake_chain.chain.head.hash
    assert proxy.asked


@pytest.mark.anvil
@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_commands(anvil: Anvil, scheme: str, tmp_path: object) -> None:
    await anvil.mint(1)
    port = int(anvil.http.rpartition(":")[2])
    async with http_proxy({HOST: ("127.0.0.1", port)}) as proxy:
        environment = {
            "RPC_URL": f"{scheme}://{HOST}",
            "CONTRACT_ADDRESS": anvil.contract,
            "CONTRACT_PRIVATE_KEY": KEYS[0],
            "STATE_DIR": f"{tmp_path}",
            "http_proxy": proxy.url,
        }
        for arguments, word in (
            (("node", "list"), "node-1"),
            (("contract", "deploy"), "The registry is deployed"),
        ):
            proxy.asked.clear()
            code, told = await run(environment, *arguments)
            assert (code, word in told) == (0, True), told
            assert proxy.asked
        _, told = await run(environment, "doctor")
        assert f"rpc {scheme}://{HOST} through the proxy 127.0.0.1:{proxy.port}" in told, told
        assert "chain 31337" in told
        code, told = await run(environment | {"NO_PROXY": "behind-proxy.test"}, "node", "list")
        assert (code, "can't be reached" in told) == (1, True), told


async def test_a_socks_proxy_is_refused() -> None:
    environment = {"RPC_URL": "https://rpc.example.org", "ALL_PROXY": "socks5://me:p4ssw0rd@192.0.2.1:1080"}
    code, told = await run(environment, "node", "list")
    assert code == 78
    assert "ALL_PROXY: SOCKS proxies are not supported" in told
    assert "p4ssw0rd" not in told
