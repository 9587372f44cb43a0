"""The firewall around the tunnel. `NftFirewall` implements `ports.Firewall`."""

from dstack_vpn.adapters.firewall.nft import NftFirewall

__all__ = ["NftFirewall"]
