"""The firewall: one nftables table for each interface, changed in transactions of libnftables.

libnftables is used for two reasons: an operator sees the same text with ``nft list ruleset``, and
pyroute2's nftables has no expressions for NAT. `rendering` makes the text.

Only differences to the table before are sent (`transactions`). If another program has edited the
table, or it is of an earlier process, one transaction replaces all of it. A table with our name is
ours only if it has only parts that ours have.

The table's listing without elements is stored after each change of its structure; the elements of
its maps are compared with the model. A listing may show what another program did since our own
transaction. Therefore it only counts if the kernel's generation did not change in between.

All calls are made in one thread, one after another. A call whose task was cancelled completes.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from dstack_vpn.adapters.firewall import exit_guard, listing, rendering
from dstack_vpn.adapters.firewall.libnftables import Libnftables, Output
from dstack_vpn.adapters.firewall.policy_chains import DENIED_SETS
from dstack_vpn.adapters.firewall.ruleset import RulesetWatch
from dstack_vpn.adapters.firewall.table import Table
from dstack_vpn.adapters.firewall.transactions import transactions
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import DeniedPackets, ExitGuard, FirewallRules, Forwarding, PacketCount, PolicyCounts

ALL: Final = "list ruleset inet"
"""Lists all tables. Without elements, that takes 1 ms. ``list table`` and ``list counters`` read
the elements even if they do not print them, which takes 60 ms for 20,000."""
TRIES: Final = 3
"""Replacements of a table, if another program changes rules at each of them."""
_FORWARDING: Final = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_FAMILIES: Final = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_Result = TypeVar("_Result")


class Nftables(Protocol):
    """`Libnftables`, or another program's equivalent in tests. All methods block."""

    @property
    def is_available(self) -> bool:
        """True if commands can be executed."""

    def run(self, commands: str, output: Output = Output.PLAIN) -> str:
        """Execute commands as one transaction. Raises `FirewallError`."""

    def generation(self) -> int:
        """Return the number of the last transaction of any program. Raises `FirewallError`."""

    def close(self) -> None:
        """Release resources. They are acquired again if they are needed."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A table that this process has made."""

    table: Table
    structure: str | None
    """Its listing without elements; None if another program may have edited it."""
    generation: int
    """The last generation in which the table was as made."""
    cleanup: str = ""
    """The transaction that is missing: it removes what is not used any more."""


class NftFirewall:
    """See `ports.Firewall`."""

    def __init__(self, nftables: Nftables | None = None, proc: Path = Path("/proc/sys/net")) -> None:
        self._nftables, self._proc = nftables or Libnftables(), proc
        self._thread = ThreadPoolExecutor(1, "nftables")
        self._made: dict[str, _Made] = {}
        """Our tables, by name."""
        self._generation: int | None = None
        """The last generation that was made by this process or was reported by `edited`."""
        self._foreign = False
        """Set if another program has made a generation that `edited` has not reported yet."""
        self._watch: RulesetWatch | None = None

    @property
    def is_there(self) -> bool:
        """True if libnftables is installed."""
        return self._nftables.is_available

    async def apply(self, rules: FirewallRules) -> None:
        """See `ports.Firewall.apply`."""
        for version in sorted(
            {ipaddress.ip_address(port_forward.address).version for port_forward in rules.port_forwards}
        ):
            if (problem := self._off([version])) is not None:
                raise FirewallError(f"FORWARD_TO: {problem}")
        await self._in_thread(lambda: self._apply(rules))

    async def is_present(self, interface: str, *, with_policy: bool = False) -> bool:
        """See `ports.Firewall.is_present`."""
        listed = await self._in_thread(lambda: self._list(rendering.table_name(interface)))
        if listed is None or not listing.is_ours(listed):
            return False
        return not with_policy or listing.enforces_policy(listed)

    async def is_applied(self, interface: str) -> bool:
        """See `ports.Firewall.is_applied`."""
        return await self._in_thread(lambda: self._is_applied(rendering.table_name(interface)))

    async def edited(self) -> None:
        """See `ports.Firewall.edited`."""
        watch = self._watch = self._watch or RulesetWatch()
        try:
            while True:
                await watch.changed()
                if await self._in_thread(self._take_edit):
                    return
        except asyncio.CancelledError:
            self._stop_watching()
            raise

    async def count(self, interface: str) -> PolicyCounts:
        """See `ports.Firewall.count`."""
        return await self._in_thread(lambda: self._count(rendering.table_name(interface)))

    async def conflict(self, interface: str, versions: Collection[int], where: Forwarding) -> str | None:
        """See `ports.Firewall.conflict`."""
        families = {family for version in versions for family in _FAMILIES[version]}
        return await self._in_thread(lambda: self._conflict(interface, families, where))

    async def forwards_nothing(self, versions: Collection[int]) -> str | None:
        """See `ports.Firewall.forwards_nothing`."""
        return await self._in_thread(lambda: self._off(versions))

    async def remove(self, interface: str) -> None:
        """See `ports.Firewall.remove`."""
        self._stop_watching()
        await self._in_thread(lambda: self._remove(rendering.table_name(interface)))

    async def guard(self, guard: ExitGuard) -> None:
        """See `ports.Firewall.guard`."""
        new = exit_guard.make_guard(guard)
        await self._in_thread(lambda: self._set(new, exit_guard.is_guard))

    async def is_guarded(self, interface: str) -> bool:
        """See `ports.Firewall.is_guarded`."""
        return await self._in_thread(lambda: self._is_applied(exit_guard.guard_name(interface)))

    async def unguard(self, interface: str) -> None:
        """See `ports.Firewall.unguard`."""
        await self._in_thread(lambda: self._unguard(exit_guard.guard_name(interface)))

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def _in_thread(self, function: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _off(self, versions: Collection[int]) -> str | None:
        """Return the problem if IP forwarding is off."""
        off = []
        for version in sorted(versions):
            try:
                on = (self._proc / _FORWARDING[version]).read_text().strip() != "0"
            except OSError:
                on = False
            off += [] if on else ["net." + _FORWARDING[version].replace("/", ".") + "=1"]
        if not off:
            return None
        return f"IP forwarding is off: set {' and '.join(off)} (for a container, in its sysctls)"

    # -- in the thread -----------------------------------------------------------------------------

    def _apply(self, rules: FirewallRules) -> None:
        new, first = rendering.make_table(rules), rendering.table_name(rules.interface) not in self._made
        self._set(new, listing.is_ours)
        if first:
            self._remove_former(rules.interface, new.name)

    def _set(self, new: Table, is_ours: Callable[[str], bool]) -> None:
        """Make or change a table. An existing one of an earlier process must be ours."""
        made = self._made.get(new.name)
        if made is None:
            self._take_over(new, is_ours)
        elif not (self._is_applied(new.name) and self._change(made.table, new)):
            self._replace(new)

    def _take_over(self, new: Table, is_ours: Callable[[str], bool]) -> None:
        present = self._list(new.name)
        if present is not None and not is_ours(present):
            raise FirewallError(
                f"the table 'inet {new.name}' was not made by dstack-vpn: if it is not needed, remove it "
                f"with 'nft delete table inet {new.name}'"
            )
        self._replace(new, new=present is None)

    def _remove_former(self, interface: str, name: str) -> None:
        former = rendering.former_name(interface)
        left = self._list(former) if former != name else None
        if left is not None and listing.is_ours(left) and f'"{interface}"' in left:
            self._transact(f"delete table inet {former}\n")

    def _change(self, old: Table, new: Table) -> bool:
        """Send the differences. Return False if the whole table must be made instead."""
        made, steps = self._made[new.name], transactions(old, new)
        try:
            for commands in steps.changes:
                self._transact(commands)
        except FirewallError:
            return False
        # With another program's transaction in between, `_is_applied` compares the table.
        generation = _after(made.generation, len(steps.changes))
        structure = made.structure if new.has_structure_of(old) and not steps.cleanup else None
        self._made[new.name] = _Made(new, structure, generation, steps.cleanup)
        if structure is None:
            self._thread.submit(self._complete, new.name)
        return True

    def _complete(self, name: str) -> None:
        """Remove the parts of a table that are not used any more, and note its listing."""
        made = self._made.get(name)
        if made is None or made.structure is not None:
            return
        with suppress(FirewallError):  # the next check makes the table again
            generation = made.generation
            if made.cleanup:
                self._transact(made.cleanup)
                generation = _after(generation)
            structure = self._list(name)
            if self._nftables.generation() == generation:
                self._made[name] = _Made(made.table, structure, generation)
            else:
                self._replace(made.table)

    def _replace(self, made: Table, *, new: bool = False) -> None:
        """Make the whole table. With ``new``, an existing one is an error."""
        for _ in range(TRIES):
            generation = self._transact(made.text(new=new))
            new = False
            self._made[made.name] = _Made(made, None, generation)
            structure = self._list(made.name)
            if self._nftables.generation() == generation:
                self._made[made.name] = _Made(made, structure, generation)
                return

    def _transact(self, commands: str) -> int:
        """Execute a transaction, and return its generation if no other program made one."""
        generation = self._nftables.generation()
        self._note(generation)
        self._nftables.run(commands)
        self._generation = _after(generation)
        return self._generation

    def _note(self, generation: int) -> None:
        if self._generation is not None and generation != self._generation:
            self._foreign = True
        self._generation = generation

    def _take_edit(self) -> bool:
        self._note(self._nftables.generation())
        foreign, self._foreign = self._foreign, False
        return foreign

    def _is_applied(self, name: str) -> bool:
        made = self._made.get(name)
        if made is None or made.structure is None:
            return False
        generation = self._nftables.generation()
        if generation == made.generation:
            return True
        same = self._list(name) == made.structure and self._has_elements(made.table)
        self._made[name] = _Made(made.table, made.structure if same else None, generation)
        return same

    def _has_elements(self, table: Table) -> bool:
        elements = table.elements()
        if not elements:
            return True
        listed = self._nftables.run(f"list table inet {table.name}", Output.STATELESS)
        return listing.elements(listed) == elements

    def _remove(self, name: str) -> None:
        try:
            if self._made.pop(name, None) is not None:
                self._transact(f"add table inet {name}\ndelete table inet {name}\n")
        finally:
            self._nftables.close()

    def _unguard(self, name: str) -> None:
        present = self._list(name)
        self._made.pop(name, None)
        if present is not None and exit_guard.is_guard(present):
            self._transact(f"delete table inet {name}\n")

    def _count(self, name: str) -> PolicyCounts:
        made = self._made.get(name)
        if made is None or "counter denied" not in made.table.parts:
            return PolicyCounts({}, PacketCount(0, 0), ())
        listed = listing.of_table(self._nftables.run(ALL, Output.TERSE), name) or ""
        granted, denied = listing.counters(listed)
        recent: list[DeniedPackets] = []
        for each in DENIED_SETS:
            listed = self._nftables.run(f"list set inet {name} {each}", Output.NUMERIC_PROTO)
            recent += listing.denied_packets(listed)
        return PolicyCounts(granted, denied, tuple(recent))

    def _conflict(self, interface: str, families: Collection[str], where: Forwarding) -> str | None:
        for family, name in listing.refuses_forwarding(self._nftables.run("list chains")):
            if family not in families:
                continue
            if not listing.lets_through(self._nftables.run(f"list table {family} {name}"), interface):
                return _advice(family, name, interface, where)
        return None

    def _list(self, name: str) -> str | None:
        """Return the table without counts and elements. None if it is missing."""
        return listing.of_table(self._nftables.run(ALL, Output.STATELESS | Output.TERSE), name)


def _after(generation: int, transactions: int = 1) -> int:
    """Return the generation after some transactions. 0 is left out (nf_tables_commit)."""
    for _ in range(transactions):
        generation = (generation + 1) & 0xFFFF_FFFF or 1
    return generation


def _advice(family: str, name: str, interface: str, where: Forwarding) -> str:
    add = f"{'ip6tables' if family == 'ip6' else 'iptables'} -I FORWARD"
    drops = f"the table '{family} {name}' drops forwarded packets (Docker sets this policy)"
    replies = f"{add} -o {interface} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    match where:
        case Forwarding.CLIENTS:
            return f"{drops}: {add} -i {interface} -o {interface} -j ACCEPT"
        case Forwarding.NETWORKS:
            return f"{drops}: {add} -i {interface} -j ACCEPT, and {replies}"
        case Forwarding.PORTS:
            first = f"{add} -i {interface} -m conntrack --ctstate DNAT -j ACCEPT"
            return f"FORWARD_TO: {drops}: {first}, and {replies}"
