"""Adapters for JSON-RPC endpoints. `RpcPool` implements `ports.ChainSource`."""

from dstack_vpn.adapters.chain.pool import RpcPool
from dstack_vpn.adapters.chain.session import RpcSession, SessionSettings, open_session
from dstack_vpn.adapters.chain.url import RpcUrl

__all__ = ["RpcPool", "RpcSession", "RpcUrl", "SessionSettings", "open_session"]
