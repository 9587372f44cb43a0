"""WireGuard devices and their links for the kernel and wireguard-go.

`choose_backend` detects the available backend, `make_link` builds its link. See
docs/architecture.md.
"""
