"""The part of the packet filter for a policy, on a real kernel: changes and edits."""

import asyncio
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from tests import netns_support
from tests.netns_support import Namespace
from tests.policy_rules import group_of, policy_rules

from dstack_vpn.adapters.firewall.libnftables import Libnftables, Output
from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.core.policy.rules import CLOSED, GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
]
BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
TABLE = "dstack_vpn_h1_2dw"
GRANTS = [GrantId(policy, number) for policy in ("1a2b3c4d", "file") for number in (1, 2, 3)]
SSH = PortRight(Protocol.TCP, 22, 22, GRANTS[0])
PING = PortRight(Protocol.ICMP, 0, 65535, GRANTS[1])
POLICY = policy_rules(
    frozenset({"10.77.0.1", "fd01::1"}),
    {"10.77.0.2": "m0", "fd01::2": "m0", "10.77.0.3": "m1"},
    {"m0": GroupRights((SSH, PING), (SSH,)), "m1": GroupRights((), (PING,))},
)
RULES = FirewallRules("h1-w", BOTH, True, policy=POLICY)
RIGHTS = next(name for name in make_table(RULES).chains if name.startswith("rights_"))


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("f") as namespace, namespace.entered():
        yield namespace


def listed(namespace: Namespace) -> list[str]:
    """Return the lines of all rules, in a fixed order, without counts."""
    return sorted(namespace.run("nft", "--stateless", "list", "ruleset").splitlines())


EDITS = [
    f"insert rule inet {TABLE} {RIGHTS} accept",
    f"insert rule inet {TABLE} prerouting_policy accept",
    f"flush chain inet {TABLE} denied",
    f"add element inet {TABLE} members4 {{ 10.77.0.9 : accept }}",
    f"add element inet {TABLE} members6 {{ fd01::9 : jump group_m1 }}",
    f"delete element inet {TABLE} members4 {{ 10.77.0.3 }}",
    f"flush map inet {TABLE} members6",
    f"add rule inet {TABLE} group_m0 accept",
    f"add chain inet {TABLE} rights_m9",
    f"add counter inet {TABLE} grant_file_9",
    f"add set inet {TABLE} more {{ type ipv4_addr; }}",
    f"add rule inet {TABLE} allow_1a2b3c4d_1 drop",
    f"flush chain inet {TABLE} denied; delete set inet {TABLE} denied4",
    f"flush chain inet {TABLE} allow_1a2b3c4d_1; delete counter inet {TABLE} grant_1a2b3c4d_1",
    f"flush table inet {TABLE}",
    f"delete table inet {TABLE}",
    "flush ruleset",
]


@pytest.mark.parametrize("edit", EDITS)
async def test_any_edit_is_seen_and_wakes(namespace: Namespace, edit: str) -> None:
    firewall = NftFirewall()
    await firewall.apply(RULES)
    made = listed(namespace)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(firewall.edited())
        await asyncio.sleep(0)
        await firewall.apply(replace(RULES, policy=CLOSED))
        await firewall.apply(RULES)
        await asyncio.sleep(0.05)
        assert not waiting.done(), "these changes are our own"
        assert await firewall.is_applied("h1-w")
        namespace.run("nft", *edit.split())
    assert not await firewall.is_applied("h1-w")
    await firewall.apply(RULES)
    assert await firewall.is_applied("h1-w")
    assert listed(namespace) == made
    await firewall.remove("h1-w")


async def test_a_change_of_another_table_wakes_and_is_no_edit(namespace: Namespace) -> None:
    firewall = NftFirewall()
    await firewall.apply(RULES)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(firewall.edited())
        await asyncio.sleep(0)
        namespace.run("nft", "add", "table", "inet", "others")
    assert await firewall.is_applied("h1-w")
    await firewall.remove("h1-w")


async def test_an_edit_before_a_change_is_not_taken_for_our_own(namespace: Namespace) -> None:
    firewall = NftFirewall()
    await firewall.apply(RULES)
    namespace.run("nft", "insert", "rule", "inet", TABLE, "output", "accept")
    await firewall.apply(replace(RULES, policy=CLOSED))
    assert await firewall.is_applied("h1-w")
    await NftFirewall().apply(replace(RULES, policy=CLOSED))
    assert "\t\taccept" not in listed(namespace)


async def test_no_file_of_names_is_needed(namespace: Namespace) -> None:
    """Debian's slim images have no ``/etc/protocols`` and no ``/etc/services``."""
    for name in ("protocols", "services"):
        namespace.run("mount", "--bind", "/dev/null", f"/etc/{name}")
    firewall = NftFirewall()
    await firewall.apply(RULES)
    assert await firewall.is_applied("h1-w")
    namespace.run("nft", "add", "table", "inet", "others")
    assert await firewall.is_applied("h1-w")
    assert set((await firewall.count("h1-w")).granted) == {SSH.grant, PING.grant}


UNPRIVILEGED = """
import asyncio, os
from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules
os.setuid(65534)
firewall = NftFirewall()
for attempt in (firewall.apply(FirewallRules("h1-w", frozenset(), True)), firewall.edited()):
    try:
        asyncio.run(attempt)
    except FirewallError as error:
        print(error)
"""


def test_without_permission_the_process_continues(namespace: Namespace) -> None:
    told = namespace.run(sys.executable, "-c", UNPRIVILEGED).splitlines()
    assert told == ["no permission to change the firewall: CAP_NET_ADMIN is needed"] * 2


async def test_a_table_of_an_earlier_process_is_present_and_taken_over(namespace: Namespace) -> None:
    assert not await NftFirewall().is_present("h1-w")
    await NftFirewall().apply(RULES)
    made = listed(namespace)
    firewall = NftFirewall()
    assert await firewall.is_present("h1-w")
    assert await firewall.is_present("h1-w", with_policy=True)
    assert not await firewall.is_applied("h1-w")
    await firewall.apply(RULES)
    assert listed(namespace) == made
    namespace.run("nft", "add", "chain", "inet", TABLE, "mine")
    assert not await firewall.is_present("h1-w")


# -- random sequences ------------------------------------------------------------------------------


def random_rights(rng: random.Random) -> tuple[PortRight, ...]:
    """Return disjoint port rights."""
    rights: list[PortRight] = []
    for protocol in (Protocol.TCP, Protocol.UDP):
        bounds = sorted(rng.sample(range(65536), 2 * rng.randrange(4)))
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            rights.append(PortRight(protocol, first, rng.choice((first, last)), rng.choice(GRANTS)))
    every = [protocol for protocol in (Protocol.ICMP, None) if rng.random() < 0.3]
    rights += [PortRight(protocol, 0, 65535, rng.choice(GRANTS)) for protocol in every]
    rng.shuffle(rights)
    return tuple(rights)


def random_policy(rng: random.Random, before: PolicyRules | None) -> PolicyRules | None:
    """Return a policy, often one that differs little from the one before."""
    if before is None or rng.random() < 0.2:
        names = rng.sample(["m0", "m1", "m2", "x3"], rng.randrange(5))
        groups = {name: GroupRights(random_rights(rng), random_rights(rng)) for name in names}
        addresses = frozenset(rng.sample(["10.77.0.1", "fd01::1", "10.77.0.99"], rng.randrange(4)))
        before = policy_rules(addresses, {}, groups)
    if rng.random() < 0.1:
        return None
    groups = dict(before.groups)
    if groups and rng.random() < 0.5:
        groups[rng.choice(list(groups))] = GroupRights(random_rights(rng), random_rights(rng))
    members = {address: group for address, group in group_of(before).items() if rng.random() < 0.9}
    for _ in range(rng.randrange(6) if groups else 0):
        number, group = rng.randrange(2, 40), rng.choice(list(groups))
        members |= {f"10.77.0.{number}": group, f"fd01::{number:x}": group}
    return policy_rules(before.addresses, members, groups)


@pytest.mark.parametrize("seed", range(4))
async def test_every_sequence_of_changes_leads_to_the_table_of_a_new_start(
    namespace: Namespace, seed: int
) -> None:
    """The kernel takes each change; a refused one would end in a replacement of the whole table."""
    rng, nftables, policy = random.Random(seed), Recording(), None
    firewall = NftFirewall(nftables)
    with Namespace("g") as other:
        for step in range(60):
            policy = random_policy(rng, policy)
            rules = FirewallRules("h1-w", BOTH, rng.random() < 0.8, policy=policy)
            await firewall.apply(rules)
            assert await firewall.is_applied("h1-w"), step
            assert nftables.refused == [], f"seed {seed}, step {step}"
            with other.entered():
                await NftFirewall().apply(rules)
            assert normal(namespace) == normal(other), f"seed {seed}, step {step}"
    namespace.run("nft", "add", "table", "inet", "others")
    assert await firewall.is_applied("h1-w"), "the full comparison"


async def test_the_kernel_takes_each_change_of_rights(namespace: Namespace) -> None:
    """Also an older kernel: a chain is removed with the map that leads to it."""
    nftables = Recording()
    firewall = NftFirewall(nftables)
    several = GroupRights((SSH, replace_port(SSH, 80)), (SSH, replace_port(SSH, 443)))
    members = {"10.77.0.2": "m0", "fd01::2": "m0", "10.77.0.3": "m1"}
    for groups in ({"m0": several, "m1": several}, POLICY.groups, {"m0": several, "m1": GroupRights()}):
        policy = policy_rules(POLICY.addresses, members, groups)
        await firewall.apply(replace(RULES, policy=policy))
        assert await firewall.is_applied("h1-w")
    for other in (CLOSED, POLICY, None):
        await firewall.apply(replace(RULES, policy=other))
        assert await firewall.is_applied("h1-w")
    assert nftables.refused == []


def replace_port(right: PortRight, port: int) -> PortRight:
    return right._replace(first=port, last=port)


class Recording(Libnftables):
    """Records the commands that the kernel refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def run(self, commands: str, output: Output = Output.PLAIN) -> str:
        try:
            return super().run(commands, output)
        except FirewallError as error:
            self.refused.append(f"{error}: {commands}")
            raise


async def check_changes(namespace: Namespace, steps: Mapping[str, FirewallRules], first: str) -> None:
    """Check that the kernel takes each change, and that the changed table equals a new one."""
    nftables = Recording()
    for second, rules in steps.items():
        firewall = NftFirewall(nftables)
        await firewall.apply(steps[first])
        assert await firewall.is_applied("h1-w")
        await firewall.apply(rules)
        assert await firewall.is_applied("h1-w"), second
        namespace.run("nft", "add", "table", "inet", "others")
        assert await firewall.is_applied("h1-w"), f"{second}: the full comparison"
        changed = normal(namespace)
        await firewall.remove("h1-w")
        await firewall.apply(rules)
        assert normal(namespace) == changed, second
        await firewall.remove("h1-w")
    assert nftables.refused == []


def normal(namespace: Namespace) -> dict[str, list[str]]:
    """Return each part of our table with its lines. Parts, and elements of sets, have no order."""
    parts: dict[str, list[str]] = {}
    name = ""
    for line in namespace.run("nft", "--stateless", "list", "table", "inet", TABLE).splitlines():
        if line.startswith("\t\t"):
            found = [line.strip()]
            if name.startswith(("set ", "map ")):
                inner = line.replace("elements = {", ",").replace("}", "")
                found = [part for each in inner.split(",") if (part := each.strip())]
            parts[name] = [*parts[name], *found]
        elif line.startswith("\t") and line.endswith("{"):
            name = line.strip("\t {")
            assert name not in parts
            parts[name] = []
    return {name: sorted(lines) if name.startswith("set ") else lines for name, lines in parts.items()}


# -- time -------------------------------------------------------------------------------


async def test_ten_thousand_members(namespace: Namespace) -> None:
    members = {f"10.77.{number >> 8}.{number & 255}": "m0" for number in range(10, 10_010)}
    members |= {f"fd01::{number:x}": "m0" for number in range(10, 10_010)}
    rules = replace(RULES, policy=policy_rules(POLICY.addresses, members, POLICY.groups))
    other = {"m0": GroupRights((SSH,), (PING,)), "m1": GroupRights((PING,), (SSH,))}
    firewall = NftFirewall()
    took: dict[str, float] = {}
    for name, wanted in (
        ("all", rules),
        (
            "one",
            replace(
                rules, policy=policy_rules(POLICY.addresses, {**members, "10.77.0.20": "m1"}, POLICY.groups)
            ),
        ),
        ("rights of all", replace(rules, policy=policy_rules(POLICY.addresses, members, other))),
        ("rights again", rules),
    ):
        began = time.perf_counter()
        await firewall.apply(wanted)
        took[name] = time.perf_counter() - began
        assert await firewall.is_applied("h1-w")
    namespace.run("nft", "add", "table", "inet", "others")
    began = time.perf_counter()
    assert await firewall.is_applied("h1-w")
    took["compare"] = time.perf_counter() - began
    began = time.perf_counter()
    assert set((await firewall.count("h1-w")).granted) == set(GRANTS[:2])
    took["count"] = time.perf_counter() - began
    print(", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in took.items()))  # noqa: T201 - the figures
    await firewall.remove("h1-w")
