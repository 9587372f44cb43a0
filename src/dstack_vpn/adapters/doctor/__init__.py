"""The checks of `dstack-vpn doctor`, outside of the daemon and without changes."""
