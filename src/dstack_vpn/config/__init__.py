"""The configuration: `load` returns frozen `Settings` or raises `ConfigError` with all problems."""

from dstack_vpn.config.load import load, load_either, load_relay, look_up
from dstack_vpn.config.options import COMPONENTS, LEVELS, OPTIONS, Option
from dstack_vpn.config.relay import RELAY_OPTIONS, TCP2UDP, UDP2TCP, RelaySettings
from dstack_vpn.config.settings import NETWORKS, Network, Secret, Settings

__all__ = [
    "COMPONENTS",
    "LEVELS",
    "NETWORKS",
    "OPTIONS",
    "RELAY_OPTIONS",
    "TCP2UDP",
    "UDP2TCP",
    "Network",
    "Option",
    "RelaySettings",
    "Secret",
    "Settings",
    "load",
    "load_either",
    "load_relay",
    "look_up",
]
