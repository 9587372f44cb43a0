"""Access to a development chain, for `dev`: its RPC endpoint, and calldata for transactions."""

import socket
from typing import Any, Final

from dstack_vpn.adapters.chain.http import open_http
from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.contracts.calls import deploy, mint, set_endpoint, update_key
from dstack_vpn.adapters.contracts.reverts import describe_revert
from dstack_vpn.adapters.uplink import look_up_by
from dstack_vpn.config import Settings
from dstack_vpn.errors import AdminError, CallRevertedError, ChainError

__all__ = ["addresses_of", "call", "deploy", "mint", "set_endpoint", "update_key"]

_DEADLINE: Final = 5.0
"""Seconds for a reply."""


async def call(settings: Settings, url: str, method: str, params: tuple[Any, ...]) -> Any:  # noqa: ANN401 - JSON
    """Return the result of one call over HTTP; raises `AdminError`.

    The connection is control traffic: a kill switch that a killed daemon left does not block it.
    """
    endpoint = RpcUrl.parse(url, settings.proxies, settings.fwmark)
    try:
        async with open_http(endpoint) as transport:
            (found,) = await transport.exchange([Request(1, method, params)], _DEADLINE)
    except ChainError as error:
        found = error
    if isinstance(found, CallRevertedError) and found.data:
        raise AdminError(f"the development chain: {method}: {describe_revert(found.data)}") from found
    if isinstance(found, ChainError):
        reason = str(found).removeprefix(f"{method}: ")
        raise AdminError(f"the development chain: {method}: {reason}") from found
    return found


def addresses_of(settings: Settings, name: str) -> set[str]:
    """Return the IPv4 addresses of a name, looked up as control traffic; raises `OSError`."""
    found = look_up_by(settings.fwmark)(name, 0, socket.SOCK_DGRAM)
    return {str(address[0]) for family, _, _, _, address in found if family == socket.AF_INET}
