"""The kill switch of EXIT_NODE as a table of its own, which also stays when the daemon is killed.

    exit_output, exit_forward  a packet leaves by the tunnel, or has the mark, or is rejected
    exit_reply                 a reply has the mark if its connection came in outside of the tunnel
    exit_prerouting            the same for forwarded packets; and a packet to this machine has the
                               mark, by which the reverse path filter finds the way back

The mark leads a packet past the exit (`core.exit_routing`). So an operator who came in by SSH, and
the clients of a published port, still get replies by the interface that they use.

Outside of the tunnel, this machine also sends what its link needs: neighbour discovery, reports of
multicast groups, and DHCP.
"""

import re
from collections.abc import Iterator
from typing import Final

from dstack_vpn.adapters.firewall.rendering import escaped, match
from dstack_vpn.adapters.firewall.table import Chain, Table
from dstack_vpn.ports import ExitGuard

LOCAL_NETWORKS: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
    *("fc00::/7", "fe80::/10", "ff00::/8"),
)
"""Addresses that EXIT_ALLOW_LAN permits outside of the tunnel: private, link-local, multicast."""
_LINK: Final = (
    *(
        f"icmpv6 type {kind} accept"
        for kind in (
            *("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"),
            *("mld-listener-report", "mld2-listener-report"),
        )
    ),
    "udp sport 68 udp dport 67 accept",
    "udp sport 546 udp dport 547 accept",
)
_REJECT: Final = "counter reject with icmpx admin-prohibited"
_PROTOCOLS: Final = {4: "ipv4", 6: "ipv6"}


def guard_name(interface: str) -> str:
    """Return the kill switch's table of an interface."""
    return "dstack_exit_" + escaped(interface)


def make_guard(guard: ExitGuard) -> Table:
    """Return the table of a kill switch."""
    ours, mark = f'"{guard.interface}"', f"meta mark set {guard.mark:#x}"
    away = f'iifname != {{ "lo", {ours} }}'
    came_in = [
        f"ct direction reply ct original {match(prefix, 'daddr', '!= ')} {mark}"
        for prefix in sorted(guard.prefixes)
    ]
    lan = [f"{match(prefix, 'daddr')} accept" for prefix in LOCAL_NETWORKS] if guard.allow_lan else []
    marked = f"meta mark {guard.mark:#x} accept"
    by_tunnel = [*_without(guard, ours), f"oifname {ours} accept"]
    chains = {
        "exit_prerouting": Chain.hooked(
            "filter hook prerouting priority mangle - 5",
            [f"{away} fib daddr type local {mark}"],
            (f"{away} {rule}" for rule in came_in),
        ),
        "exit_reply": Chain.hooked("route hook output priority mangle - 5", came_in),
        "exit_output": Chain.hooked(
            "filter hook output priority filter - 6",
            by_tunnel,
            ['oifname "lo" accept', marked],
            _LINK,
            lan,
            [_REJECT],
        ),
        "exit_forward": Chain.hooked(
            "filter hook forward priority filter - 6",
            by_tunnel,
            [f"iifname {ours} accept", marked],
            lan,
            [_REJECT],
        ),
    }
    return Table(guard_name(guard.interface), chains)


def _without(guard: ExitGuard, ours: str) -> Iterator[str]:
    """Yield the rules that reject packets of the IP versions that the exit does not have.

    WireGuard would drop them without an answer.
    """
    for version, protocol in _PROTOCOLS.items():
        if version in guard.versions:
            continue
        for prefix in sorted(guard.within):
            if (":" in prefix) == (version == 6):
                yield f"oifname {ours} {match(prefix, 'daddr')} accept"
        yield f"oifname {ours} meta nfproto {protocol} {_REJECT}"


def is_guard(table: str) -> bool:
    """Return True if a listed table has only the chains of a kill switch."""
    parts = re.findall(r"^\t(\w+) (\S+) ?(?:\{|$)", table, re.MULTILINE)
    return all(kind == "chain" and name.startswith("exit_") for kind, name in parts)
