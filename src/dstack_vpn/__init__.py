"""A private WireGuard network whose members are decided on chain."""

__version__ = "0.1.0"
