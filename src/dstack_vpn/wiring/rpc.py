"""The RPC endpoints of the settings, each with its proxy, and other machines that a node needs."""

from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.resolver import name_servers
from dstack_vpn.config import Settings


def rpc_urls(settings: Settings) -> tuple[RpcUrl, ...]:
    """Return the endpoints in order of preference."""
    return tuple(RpcUrl.parse(url, settings.proxies) for url in settings.rpc_url)


def needed_machines(settings: Settings) -> list[tuple[str, str]]:
    """Return the machines to be reached outside of the tunnel: what each is, and its host."""
    servers = [*name_servers(), *(server.host for server in settings.dns_upstream)]
    return [
        *((f"the RPC host {name}", host) for name, host in contacts(settings).items()),
        *(("the name server", server) for server in servers),
    ]


def contacts(settings: Settings) -> dict[str, str]:
    """Return the hosts of endpoints and proxies by their display names."""
    return {name: host for host, name in sorted(url.contact for url in rpc_urls(settings))}
