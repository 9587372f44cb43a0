"""The configuration: `load` gives one frozen `Settings`, or one `ConfigError` with all that is wrong."""

from dstack_vpn.config.load import load
from dstack_vpn.config.options import COMPONENTS, LEVELS, OPTIONS, Option
from dstack_vpn.config.settings import NETWORKS, Network, Secret, Settings

__all__ = ["COMPONENTS", "LEVELS", "NETWORKS", "OPTIONS", "Network", "Option", "Secret", "Settings", "load"]
