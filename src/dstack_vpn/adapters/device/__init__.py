"""WireGuard devices and their links: kernel, wireguard-go and in-memory.

`choose_backend` finds out what the host has, `make_link` builds it. See docs/architecture.md.
"""
