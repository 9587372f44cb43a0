"""The RPC endpoints of the settings, each with its proxy."""

from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.config import Settings


def rpc_urls(settings: Settings) -> tuple[RpcUrl, ...]:
    """Return the endpoints in order of preference."""
    return tuple(RpcUrl.parse(url, settings.proxies, settings.fwmark) for url in settings.rpc_url)


def contacts(settings: Settings) -> dict[str, str]:
    """Return the hosts of endpoints and proxies by their display names."""
    return {name: host for host, name in sorted(url.contact for url in rpc_urls(settings))}
