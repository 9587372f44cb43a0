"""Marked connections to RPC endpoints."""

import os
import socket

import pytest
from tests.fake_chain import serve

from dstack_vpn.adapters import uplink
from dstack_vpn.adapters.chain import connector
from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.session import open_transport
from dstack_vpn.adapters.chain.url import RpcUrl


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mark packets")
@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_each_connection_has_the_mark(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    original = uplink.mark_socket

    def noted(one: socket.socket, mark: int | None) -> None:
        original(one, mark)
        made.append(one)

    monkeypatch.setattr(connector, "mark_socket", noted)
    async with serve(host="127.0.0.1") as chain:
        url = RpcUrl.parse(f"{scheme}://localhost:{chain.port}", mark=77)
        async with open_transport(url) as transport:
            (found,) = await transport.exchange([Request(1, "eth_chainId", [])], 5.0)
            assert isinstance(found, str)
            connected = [one for one in made if one.fileno() >= 0]
            assert {one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for one in connected} == {77}
