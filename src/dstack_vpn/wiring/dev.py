"""Calldata for a development chain's transactions, for `dev`."""

from dstack_vpn.adapters.contracts.calls import deploy, mint, set_endpoint, update_key
from dstack_vpn.adapters.contracts.reverts import describe_revert

__all__ = ["deploy", "describe_revert", "mint", "set_endpoint", "update_key"]
