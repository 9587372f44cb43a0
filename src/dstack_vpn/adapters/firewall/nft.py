"""nftables, by the ``nft`` program: one table of our own, replaced as a whole in one transaction.

The program, because its text is what an operator sees with ``nft list ruleset``, because it sends a table as
one transaction, and because pyroute2's nftables has no expressions for NAT. The rules go in on its standard
input. There is no shell, and what is written into them are addresses, numbers, and an interface name that is
quoted and has been validated.

    leaving, passing   a packet for the VPN goes by its interface, or not at all
    passing            what comes from the VPN goes on only to where FORWARD_TO says
    arriving           who uses an address of the VPN comes from the VPN
    handing, behind    FORWARD_TO: to whom, and so that the answers come back to us

The chains have a priority before that of others, and accept: what other tables refuse stays refused.
"""

import asyncio
import ipaddress
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dstack_vpn.core.model import Cidr
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, Handing

DEADLINE: Final = 5.0
_FORWARDING: Final = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_PROBLEMS: Final = (
    ("Operation not permitted", "no permission to change the firewall: CAP_NET_ADMIN is needed"),
    (
        "Operation not supported",
        "this kernel lacks a part of nftables: LEAK_PROTECTION=off does without",
    ),
)


def table_name(interface: str) -> str:
    """The table of an interface; its own, so that several daemons on a host leave each other's alone."""
    return "dstack_vpn_" + re.sub("[^A-Za-z0-9]", "_", interface)


def render(rules: FirewallRules) -> str:
    """The whole table, as input of ``nft -f``; what was there before goes in the same transaction."""
    name = table_name(rules.interface)
    lines = [f"add table inet {name}", f"delete table inet {name}", f"table inet {name} {{"]
    for chain in _chains(rules):
        lines += ["  " + chain[0], *("    " + line for line in chain[1:]), "  }"]
    return "\n".join([*lines, "}", ""])


def _chains(rules: FirewallRules) -> Iterator[list[str]]:
    ours = f'"{rules.interface}"'
    prefixes = sorted(rules.prefixes)
    if rules.protect:
        away = f'oifname != {{ {ours}, "lo" }}'
        yield [
            "chain leaving { type filter hook output priority filter - 5; policy accept;",
            *(f"{away} {_match(prefix, 'daddr')} counter drop" for prefix in prefixes),
        ]
        yield [
            "chain arriving { type filter hook input priority filter - 5; policy accept;",
            *(f'iifname != {{ {ours}, "lo" }} {_match(prefix, "saddr")} counter drop' for prefix in prefixes),
        ]
        yield [
            "chain passing { type filter hook forward priority filter - 5; policy accept;",
            *(f"oifname != {ours} {_match(prefix, 'daddr')} counter drop" for prefix in prefixes),
            # Without a forward there is nothing to remember, and no reason to have connections tracked.
            *([f"iifname {ours} ct status dnat accept"] if rules.handings else []),
            f"iifname {ours} oifname != {ours} counter drop",
        ]
    if rules.handings:
        yield [
            "chain handing { type nat hook prerouting priority dstnat; policy accept;",
            *(
                f"iifname {ours} {rule}"
                for handing in sorted(rules.handings)
                for prefix in prefixes
                if (rule := _hand_on(handing, prefix)) is not None
            ),
        ]
        yield [
            "chain behind { type nat hook postrouting priority srcnat; policy accept;",
            *(
                f"oifname != {ours} {_match(prefix, 'saddr')} ct status dnat counter masquerade"
                for prefix in prefixes
            ),
        ]


def _match(prefix: Cidr, field: str) -> str:
    return f"{'ip6' if ipaddress.ip_network(prefix).version == 6 else 'ip'} {field} {prefix}"


def _hand_on(handing: Handing, prefix: Cidr) -> str | None:
    """The rule for what arrives at an address within ``prefix``; None where that is of the other family."""
    address = ipaddress.ip_address(handing.address)
    if address.version != ipaddress.ip_network(prefix).version:
        return None
    family, to = ("ip6", f"[{address}]") if address.version == 6 else ("ip", str(address))
    at = f"{_match(prefix, 'daddr')} {handing.protocol} dport {handing.port}"
    return f"{at} counter dnat {family} to {to}:{handing.to_port}"


class NftFirewall:
    """Implements `ports.Firewall`."""

    def __init__(self, program: str = "nft", proc: Path = Path("/proc/sys/net")) -> None:
        self._program, self._proc = program, proc

    @property
    def is_there(self) -> bool:
        """Whether the program is installed."""
        return shutil.which(self._program) is not None

    async def apply(self, rules: FirewallRules) -> None:
        """See `ports.Firewall.apply`."""
        for version in sorted({ipaddress.ip_address(handing.address).version for handing in rules.handings}):
            self._check_forwarding(version)
        await self._nft("-f", "-", text=render(rules))

    async def is_applied(self, interface: str) -> bool:
        """See `ports.Firewall.is_applied`."""
        try:
            await self._nft("list", "table", "inet", table_name(interface))
        except FirewallError as error:
            if "No such file" in str(error):
                return False
            raise
        return True

    async def remove(self, interface: str) -> None:
        """See `ports.Firewall.remove`."""
        name = table_name(interface)
        await self._nft("-f", "-", text=f"add table inet {name}\ndelete table inet {name}\n")

    def _check_forwarding(self, version: int) -> None:
        path = self._proc / _FORWARDING[version]
        try:
            on = path.read_text().strip() != "0"
        except OSError:
            on = False
        if not on:
            name = "net." + _FORWARDING[version].replace("/", ".")
            raise FirewallError(
                f"FORWARD_TO: packets are not forwarded here: set {name}=1 (a container: in its sysctls)"
            )

    async def _nft(self, *arguments: str, text: str = "") -> None:
        try:
            child = await asyncio.create_subprocess_exec(
                *(self._program, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError:
            raise FirewallError(
                f"{self._program} is not installed: apt install nftables, or do without "
                "LEAK_PROTECTION and FORWARD_TO"
            ) from None
        except OSError as error:
            raise FirewallError(f"can't start {self._program}: {error.strerror}") from error
        try:
            async with asyncio.timeout(DEADLINE):
                _, said = await child.communicate(text.encode())
        except TimeoutError:
            child.kill()
            raise FirewallError(f"{self._program} did not answer within {DEADLINE:g} s") from None
        if child.returncode:
            raise FirewallError(_explain(said.decode("utf-8", "replace")))


def _explain(said: str) -> str:
    for sign, meaning in _PROBLEMS:
        if sign in said:
            return meaning
    return f"nft refuses the rules: {said.strip().splitlines()[0] if said.strip() else 'without a word'}"
