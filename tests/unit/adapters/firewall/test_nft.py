"""The adapter's decisions: which commands it sends, and when it lists the table again.

tests/netns uses the kernel.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import pytest
from tests.policy_rules import members_of, policy_rules

from dstack_vpn.adapters.firewall.libnftables import Libnftables, Output
from dstack_vpn.adapters.firewall.nft import TRIES, NftFirewall
from dstack_vpn.core.policy.rules import CLOSED, GrantId, GroupRights, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PacketCount, PolicyCounts, PortForward

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
V4 = PortForward("tcp", 80, "192.0.2.7", 8000)
V6 = PortForward("udp", 53, "2001:db8::7", 53)
RULES = FirewallRules("wg0", BOTH, True)
OPEN = replace(RULES, policy=policy_rules(frozenset({"10.77.0.2"}), {}, {"m0": GroupRights()}))

SSH = PortRight(Protocol.TCP, 22, 22, GrantId("1a2b3c4d", 1))
WITH_SSH = replace(OPEN, policy=policy_rules(frozenset({"10.77.0.2"}), {}, {"m0": GroupRights((SSH,))}))


@dataclass
class Kernel:
    """A kernel with one table of ours. Its listing shows each transaction since it was made."""

    busy: bool = False
    """Another program makes a transaction after each of ours."""
    refused: str = ""
    """The beginning of commands that fail."""
    sent: list[str] = field(default_factory=list)
    listings: int = 0
    closed: int = 0
    _table: list[str] = field(default_factory=list)
    _generation: int = 1
    removal: Event = field(default_factory=Event)
    """Transactions that remove chains wait for it."""

    is_available: bool = True

    def run(self, commands: str, output: Output = Output.PLAIN) -> str:
        if commands.startswith("list map"):
            return ""
        if commands == "list ruleset inet":
            self.listings += 1
            lines = "".join(self._table).replace("\n", "\n\t")
            return f"table inet dstack_vpn_wg0 {{\n\t{lines}\n}}\n" if self._table else ""
        if self.refused and commands.startswith(self.refused):
            raise FirewallError("refused")
        if "delete chain" in commands:
            assert self.removal.wait(10)
        self.sent.append(commands)
        whole = commands.startswith(("create", "add table"))
        self._table = [*([] if whole else self._table), commands]
        self._generation += 2 if self.busy else 1
        return ""

    def generation(self) -> int:
        return self._generation

    def close(self) -> None:
        self.closed += 1

    def edit(self, text: str = "") -> None:
        """Let another program make a transaction, which adds ``text`` to our table."""
        self._generation += 1
        self._table += [text] if text else []


async def test_a_first_table_must_not_exist_and_later_only_differences_are_sent() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    await firewall.apply(RULES)
    await firewall.apply(RULES)
    await firewall.apply(OPEN)
    first, second = kernel.sent
    assert first.startswith("create table inet dstack_vpn_wg0\n")
    assert second.startswith("add chain inet dstack_vpn_wg0 replies")
    assert await firewall.is_applied("wg0")


async def test_elements_alone_need_no_listing() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    await firewall.apply(OPEN)
    listings = kernel.listings
    assert OPEN.policy is not None
    await firewall.apply(
        replace(OPEN, policy=replace(OPEN.policy, members=members_of({"10.77.0.3": "m0"}, {})))
    )
    assert await firewall.is_applied("wg0")
    assert kernel.listings == listings


async def test_the_rules_that_were_replaced_are_removed_after_the_new_ones_are_applied() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    await firewall.apply(OPEN)
    listings = kernel.listings
    await firewall.apply(WITH_SSH)
    assert "goto rights_" in kernel.sent[-1]
    assert kernel.listings == listings
    kernel.removal.set()
    assert await firewall.is_applied("wg0")
    assert "delete chain" in kernel.sent[-1]
    assert kernel.listings == listings + 1


async def test_another_programs_transaction_before_the_removal_leads_to_a_replacement() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    await firewall.apply(OPEN)
    await firewall.apply(WITH_SSH)
    kernel.edit("accept")
    kernel.removal.set()
    assert await firewall.is_applied("wg0")
    assert kernel.sent[-1].startswith("add table inet dstack_vpn_wg0\ndelete table inet dstack_vpn_wg0\n")


async def test_another_programs_transaction_leads_to_a_comparison() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    await firewall.apply(RULES)
    listings = kernel.listings
    kernel.edit()
    assert await firewall.is_applied("wg0"), "it changed another table"
    assert await firewall.is_applied("wg0")
    assert kernel.listings == listings + 1
    kernel.edit("accept")
    assert not await firewall.is_applied("wg0")


async def test_an_edited_table_is_replaced_even_if_it_was_not_yet_looked_at() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    await firewall.apply(RULES)
    kernel.edit("accept")
    await firewall.apply(OPEN)
    assert kernel.sent[-1].startswith("add table inet dstack_vpn_wg0\ndelete table")
    assert await firewall.is_applied("wg0")


async def test_differences_that_are_refused_lead_to_a_replacement() -> None:
    kernel = Kernel(refused="add chain")
    firewall = NftFirewall(kernel)
    await firewall.apply(RULES)
    await firewall.apply(OPEN)
    assert kernel.sent[-1].startswith("add table inet dstack_vpn_wg0\ndelete table")
    assert await firewall.is_applied("wg0")


async def test_a_listing_during_changes_of_others_is_not_trusted() -> None:
    kernel = Kernel(busy=True)
    firewall = NftFirewall(kernel)
    await firewall.apply(RULES)
    assert len(kernel.sent) == TRIES
    assert not await firewall.is_applied("wg0"), "it may contain an edit"


async def test_without_a_policy_the_counts_are_zero() -> None:
    firewall = NftFirewall(Kernel())
    zero = PolicyCounts({}, PacketCount(0, 0), ())
    assert await firewall.count("wg0") == zero
    await firewall.apply(RULES)
    assert await firewall.count("wg0") == zero


async def test_a_table_is_present_if_it_is_listed() -> None:
    kernel = Kernel()
    firewall = NftFirewall(kernel)
    assert not await firewall.is_present("wg0")
    await firewall.apply(replace(RULES, policy=CLOSED))
    assert await firewall.is_present("wg0")
    await firewall.remove("wg0")
    sent = kernel.sent.copy()
    await firewall.remove("wg0")
    assert (kernel.sent, kernel.closed) == (sent, 2)
    assert sent[-1] == "add table inet dstack_vpn_wg0\ndelete table inet dstack_vpn_wg0\n"


async def test_a_missing_library_is_told() -> None:
    firewall = NftFirewall(Libnftables("libmissing.so.9"))
    assert not firewall.is_there
    with pytest.raises(FirewallError, match="is not installed: apt install nftables"):
        await firewall.apply(RULES)
    await firewall.remove("wg0")


@pytest.mark.parametrize(
    ("port_forward", "name"), [(V4, "ipv4.ip_forward"), (V6, "ipv6.conf.all.forwarding")]
)
async def test_a_machine_that_does_not_forward_is_told(
    tmp_path: Path, port_forward: PortForward, name: str
) -> None:
    for file in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("0\n")
    with pytest.raises(FirewallError, match=name):
        await NftFirewall(proc=tmp_path).apply(
            FirewallRules("wg0", BOTH, True, port_forwards=frozenset({port_forward}))
        )
