"""The firewall: one nftables table, replaced as a whole in one transaction by the ``nft`` program.

The program is used for three reasons: an operator sees the same text with ``nft list ruleset``, it
sends a table as one transaction, and pyroute2's nftables has no expressions for NAT. The rules are
passed on its standard input, without a shell. They contain only addresses, numbers, and a validated
and quoted interface name.

    output, forward    a packet to the VPN leaves by its interface only
    prerouting_raw     a packet from the VPN has a destination in the VPN, not another address of
                       this machine
    forward            a packet from the VPN is forwarded only as FORWARD_TO defines, not to members
    input              a packet with a source in the VPN comes from the VPN, and does not address
                       WireGuard itself
    prerouting_nat     translates the destination for FORWARD_TO
    postrouting_nat    translates the source, so that replies return to this machine

`prerouting_raw` comes before connection tracking and before any table translates addresses.
Therefore, a port that another program publishes (such as Docker) is judged by the address that the
member used.

The chains have a priority before those of other tables, and accept by default. Packets that other
tables refuse stay refused.

A table with our name is ours only if it has only chains of ours. The listing of the table is stored
after `apply`, so any edit by another program is detected.
"""

import ipaddress
import re
import shutil
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from dstack_vpn.adapters import subprocesses
from dstack_vpn.core.model import Cidr
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PortForward

DEADLINE: Final = 5.0
_FORWARDING: Final = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_PROBLEMS: Final = (
    ("Operation not permitted", "no permission to change the firewall: CAP_NET_ADMIN is needed"),
    (
        "Operation not supported",
        "this kernel lacks a part of nftables: set LEAK_PROTECTION=off",
    ),
)


_CHAINS: Final = frozenset(
    {"output", "prerouting_raw", "input", "forward", "prerouting_nat", "postrouting_nat"}
)
_OURS_ALONE: Final = frozenset({"prerouting_raw", "prerouting_nat"})
"""Our table has one of these. A table of another program may have the other names."""
_FORMER_CHAINS: Final = frozenset({"leaving", "entering", "arriving", "passing", "handing", "behind"})
"""The chain names in tables that version 0.1 may have left behind."""
_FAMILIES: Final = {4: ("ip", "inet"), 6: ("ip6", "inet")}


def table_name(interface: str) -> str:
    """Return the table of an interface.

    Each interface has a different table, so that daemons on one host do not disturb each other.
    """
    return "dstack_vpn_" + re.sub("[^A-Za-z0-9]", lambda character: _escaped(character[0]), interface)


def _escaped(character: str) -> str:
    return "__" if character == "_" else f"_{ord(character):02x}"


def former_name(interface: str) -> str:
    """Return the table's name in releases up to 0.1, which was the same for ``a-b`` and ``a_b``."""
    return "dstack_vpn_" + re.sub("[^A-Za-z0-9]", "_", interface)


def is_ours(table: str) -> bool:
    """Return True if a listed table has only our chains."""
    parts = re.findall(r"^\t(\w+) (\S+) ?(?:\{|$)", table, re.MULTILINE)
    chains = {name for kind, name in parts if kind == "chain"}
    if len(chains) < len(parts):
        return False
    return not chains or chains <= _FORMER_CHAINS or (chains <= _CHAINS and bool(chains & _OURS_ALONE))


def refuses_forwarding(chains: str) -> list[tuple[str, str]]:
    """Return the tables, as family and name, with a chain that drops forwarded packets.

    ``chains`` is the output of ``nft list chains``.
    """
    found, table = [], ("", "")
    for line in chains.splitlines():
        if head := re.match(r"table (\S+) (\S+) \{", line):
            table = (head[1], head[2])
        elif "hook forward" in line and "policy drop" in line:
            found.append(table)
    return found


def _advice(family: str, name: str, interface: str) -> str:
    add = f"{'ip6tables' if family == 'ip6' else 'iptables'} -I FORWARD"
    return (
        f"FORWARD_TO: the table '{family} {name}' drops forwarded packets (Docker sets this policy): "
        f"{add} -i {interface} -m conntrack --ctstate DNAT -j ACCEPT, and "
        f"{add} -o {interface} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )


def lets_through(table: str, interface: str) -> bool:
    """Return True if a rule in a listed table accepts our interface or translated packets."""
    for line in table.splitlines():
        verdict = re.search(r"\b(accept|jump|goto)\b", line)
        names = re.findall(r'iifname "([^"]*)"', line)
        if verdict and ("dnat" in line or any(fnmatchcase(interface, name) for name in names)):
            return True
    return False


def render(rules: FirewallRules, *, new: bool = False) -> str:
    """Return the whole table as input for ``nft -f``. The transaction replaces an existing table.

    With ``new``, an existing table is an error.
    """
    name = table_name(rules.interface)
    begin = [f"create table inet {name}"] if new else [f"add table inet {name}", f"delete table inet {name}"]
    lines = [*begin, f"table inet {name} {{"]
    for chain in _chains(rules):
        lines += ["  " + chain[0], *("    " + line for line in chain[1:]), "  }"]
    return "\n".join([*lines, "}", ""])


def _chains(rules: FirewallRules) -> Iterator[list[str]]:
    ours = f'"{rules.interface}"'
    prefixes = sorted(rules.prefixes)
    if rules.protect:
        away = f'oifname != {{ {ours}, "lo" }}'
        yield [
            "chain output { type filter hook output priority filter - 5; policy accept;",
            *(f"{away} {_match(prefix, 'daddr')} counter drop" for prefix in prefixes),
        ]
        yield [
            "chain input { type filter hook input priority filter - 5; policy accept;",
            *(f'iifname != {{ {ours}, "lo" }} {_match(prefix, "saddr")} counter drop' for prefix in prefixes),
            *(
                f"iifname {ours} {protocol} dport {port} counter drop"
                for protocol, port in sorted(rules.closed)
            ),
        ]
        yield [
            "chain prerouting_raw { type filter hook prerouting priority raw; policy accept;",
            *(f"iifname {ours} {_match(prefix, 'daddr', '!= ')} counter drop" for prefix in prefixes),
        ]
        yield [
            "chain forward { type filter hook forward priority filter - 5; policy accept;",
            *(f"oifname != {ours} {_match(prefix, 'daddr')} counter drop" for prefix in prefixes),
            # Without a port forward, connections need not be tracked.
            *([f"iifname {ours} ct status dnat accept"] if rules.port_forwards else []),
            f"iifname {ours} counter drop",
        ]
    if rules.port_forwards:
        yield [
            "chain prerouting_nat { type nat hook prerouting priority dstnat; policy accept;",
            *(
                f"iifname {ours} {rule}"
                for port_forward in sorted(rules.port_forwards)
                for prefix in prefixes
                if (rule := _dnat_rule(port_forward, prefix)) is not None
            ),
        ]
        yield [
            "chain postrouting_nat { type nat hook postrouting priority srcnat; policy accept;",
            *(
                f"oifname != {ours} {_match(prefix, 'saddr')} ct status dnat counter masquerade"
                for prefix in prefixes
            ),
        ]


def _match(prefix: Cidr, field: str, unlike: str = "") -> str:
    return f"{'ip6' if ipaddress.ip_network(prefix).version == 6 else 'ip'} {field} {unlike}{prefix}"


def _dnat_rule(port_forward: PortForward, prefix: Cidr) -> str | None:
    """Return the rule for packets to an address in ``prefix``. None if the IP versions differ."""
    address = ipaddress.ip_address(port_forward.address)
    if address.version != ipaddress.ip_network(prefix).version:
        return None
    family, to = ("ip6", f"[{address}]") if address.version == 6 else ("ip", str(address))
    at = f"{_match(prefix, 'daddr')} {port_forward.protocol} dport {port_forward.port}"
    return f"{at} counter dnat {family} to {to}:{port_forward.to_port}"


class NftFirewall:
    """See `ports.Firewall`."""

    def __init__(self, program: str = "nft", proc: Path = Path("/proc/sys/net")) -> None:
        self._program, self._proc = program, proc
        self._made: dict[str, str] = {}
        """The listing of our tables after they were made, by name."""

    @property
    def is_there(self) -> bool:
        """True if the program is installed."""
        return shutil.which(self._program) is not None

    async def apply(self, rules: FirewallRules) -> None:
        """See `ports.Firewall.apply`."""
        for version in sorted(
            {ipaddress.ip_address(port_forward.address).version for port_forward in rules.port_forwards}
        ):
            self._check_forwarding(version)
        name = table_name(rules.interface)
        if name in self._made:
            await self._nft("-f", "-", text=render(rules))
        else:
            await self._apply_first(rules)
        self._made[name] = await self._list(name) or ""

    async def _apply_first(self, rules: FirewallRules) -> None:
        """Make the table. An existing one must be ours."""
        try:
            await self._nft("-f", "-", text=render(rules, new=True))
        except FirewallError as error:
            if "File exists" not in str(error):
                raise
            await self._check_table(table_name(rules.interface))
            await self._nft("-f", "-", text=render(rules))
        await self._remove_former(rules.interface)

    async def is_applied(self, interface: str) -> bool:
        """See `ports.Firewall.is_applied`."""
        name = table_name(interface)
        return await self._list(name) == self._made.get(name, "")

    async def remove(self, interface: str) -> None:
        """See `ports.Firewall.remove`."""
        name = table_name(interface)
        if self._made.pop(name, None) is not None:
            await self._nft("-f", "-", text=f"add table inet {name}\ndelete table inet {name}\n")

    async def conflict(self, interface: str, versions: Collection[int]) -> str | None:
        """See `ports.Firewall.conflict`."""
        families = {family for version in versions for family in _FAMILIES[version]}
        for family, name in refuses_forwarding(await self._nft("list", "chains")):
            if family not in families:
                continue
            if not lets_through(await self._nft("list", "table", family, name), interface):
                return _advice(family, name, interface)
        return None

    async def _check_table(self, name: str) -> None:
        present = await self._list(name)
        if present is not None and not is_ours(present):
            raise FirewallError(
                f"the table 'inet {name}' was not made by dstack-vpn: if it is not needed, remove it with "
                f"'nft delete table inet {name}'"
            )

    async def _remove_former(self, interface: str) -> None:
        """Remove the table that an earlier release left under another name."""
        former = former_name(interface)
        left = await self._list(former) if former != table_name(interface) else None
        if left is not None and is_ours(left) and f'"{interface}"' in left:
            await self._nft("delete", "table", "inet", former)

    async def _list(self, name: str) -> str | None:
        """Return the table without the values of its counters. None if it is missing."""
        try:
            return await self._nft("--stateless", "list", "table", "inet", name)
        except FirewallError as error:
            if "No such file" in str(error):
                return None
            raise

    def _check_forwarding(self, version: int) -> None:
        path = self._proc / _FORWARDING[version]
        try:
            on = path.read_text().strip() != "0"
        except OSError:
            on = False
        if not on:
            name = "net." + _FORWARDING[version].replace("/", ".")
            raise FirewallError(
                f"FORWARD_TO: IP forwarding is off: set {name}=1 (for a container, in its sysctls)"
            )

    async def _nft(self, *arguments: str, text: str = "") -> str:
        try:
            ran = await subprocesses.run(self._program, *arguments, text=text.encode(), deadline=DEADLINE)
        except FileNotFoundError:
            raise FirewallError(
                f"{self._program} is not installed: apt install nftables, or switch off "
                "LEAK_PROTECTION and FORWARD_TO"
            ) from None
        except TimeoutError:
            raise FirewallError(f"{self._program} did not finish within {DEADLINE:g} s") from None
        except OSError as error:
            raise FirewallError(f"can't start {self._program}: {error.strerror}") from error
        if ran.code:
            raise FirewallError(_explain(ran.errors.decode("utf-8", "replace")))
        return ran.output.decode("utf-8", "replace")


def _explain(errors: str) -> str:
    for pattern, meaning in _PROBLEMS:
        if pattern in errors:
            return meaning
    return f"nft refuses the rules: {errors.strip().splitlines()[0] if errors.strip() else 'no message'}"
