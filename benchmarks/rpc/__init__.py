"""The use of RPC endpoints by a node, and the latency of both ways to follow the chain."""

from benchmarks.rpc import costs, latency

ALL = {"rpc-costs": costs.rpc_costs, "rpc-latency": latency.rpc_latency}
