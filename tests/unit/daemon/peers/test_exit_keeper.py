"""The exit of a node, and its kill switch. tests/netns/test_exits.py captures real packets."""

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually
from tests.unit.daemon.under_policy import OPEN, db, policy

from dstack_vpn.core.chain.events import Granted, Revoked, RoutesUpdated
from dstack_vpn.core.exit_routing import MARK
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.peers import exit_keeper
from dstack_vpn.ports import ExitGuard

__all__ = ["db"]

BOTH = ("0.0.0.0/0", "::/0")
EXITS = ("node-1", "node-2")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TICK", "CHECK", "RETRY"):
        monkeypatch.setattr(exit_keeper, name, 0.005)


def exits(bench: Bench) -> dict[int, set[str]]:
    """Return the default routes among the allowed IPs of each peer that has any."""
    peers = {} if bench.link.device is None else bench.link.device.peers
    found = {n: {*peers[key(n)].allowed_ips} & {*BOTH} for n in (1, 2, 3) if key(n) in peers}
    return {number: routes for number, routes in found.items() if routes}


def last(bench: Bench) -> ExitGuard:
    guard = bench.firewall.guards[-1]
    assert guard is not None
    return guard


def with_exits(*names: str) -> Bench:
    bench = Bench(exit_nodes=names)
    bench.chain.mine(grant(1), grant(2), grant(3), RoutesUpdated(1, BOTH), RoutesUpdated(2, BOTH[:1]))
    return bench


async def test_everything_leads_to_the_first_exit_behind_a_kill_switch() -> None:
    bench = with_exits(*EXITS)
    async with bench.running():
        assert bench.link.starts == 0, "the kill switch is first"
        await eventually(lambda: bench.link.starts)
        assert bench.firewall.guards
        await eventually(lambda: exits(bench) == {1: {*BOTH}})
        assert last(bench).mark == MARK
        assert last(bench).versions == {4, 6}
        assert bench.device.fwmark == MARK
        assert bench.link.settings is not None
        assert bench.link.settings.exit_mark == MARK
        assert bench.component("exit") == "ok: by node-1"

        # Another program takes the mark from WireGuard's packets.
        bench.device.fwmark = 0
        bench.node.reconciler.request_repair()
        await eventually(lambda: bench.device.fwmark == MARK)

        # It has only IPv4 from now on. IPv6 is blocked, and not left to another node.
        bench.source.tell(bench.chain.mine(RoutesUpdated(1, BOTH[:1])))
        await eventually(lambda: exits(bench) == {1: {"0.0.0.0/0"}})
        assert last(bench).versions == {4}
        assert bench.component("exit") == "ok: by node-1; IPv6 is blocked"

        # It is revoked, and so is the other one.
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: exits(bench) == {2: {"0.0.0.0/0"}})
        reason = "node-1: it is not on the network: revoked"
        assert bench.component("exit") == f"warning: by node-2; IPv6 is blocked; {reason}"
        bench.source.tell(bench.chain.mine(RoutesUpdated(2, ())))
        await eventually(lambda: exits(bench) == {})
        assert last(bench).versions == frozenset(), "what enters the tunnel is rejected"
        reason = f"{reason}; node-2: it is not an exit: its routes have neither 0.0.0.0/0 nor ::/0"
        assert bench.component("exit") == f"failed: nothing leaves: {reason}"
        bench.source.tell(bench.chain.mine(RoutesUpdated(2, BOTH)))
        await eventually(lambda: exits(bench) == {2: {*BOTH}})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("node-9", "there is no such node"),
        ("node-3", "it is not an exit"),
        ("node-0", "it is this node"),
    ],
)
async def test_a_name_that_can_not_be_used_blocks_everything(name: str, reason: str) -> None:
    bench = with_exits(name)
    bench.chain.mine(Granted(0, "0xme", "node-0", derive(OWN)), RoutesUpdated(0, BOTH))
    async with bench.running():
        await eventually(lambda: bench.follows() and len(bench.device.peers) >= 3)
        await eventually(
            lambda: bench.component("exit").startswith(f"failed: nothing leaves: {name}: {reason}")
        )
        assert exits(bench) == {}
        assert last(bench).versions == frozenset()


async def test_without_a_kill_switch_no_exit_is_used() -> None:
    bench = with_exits("node-1")
    bench.firewall.refuse = "no nf_tables"
    async with bench.running():
        await eventually(lambda: bench.follows() and len(bench.device.peers) == 3)
        expected = "failed: nothing leaves: the kill switch can't be set: no nf_tables"
        await eventually(lambda: bench.component("exit") == expected)
        assert exits(bench) == {}
        bench.firewall.refuse = None
        await eventually(lambda: exits(bench) == {1: {*BOTH}})
        assert bench.component("exit") == "ok: by node-1"

        # Another program edits it.
        before = len(bench.firewall.guards)
        bench.firewall.edit(bench.firewall.rules)
        await eventually(lambda: len(bench.firewall.guards) > before)
        assert last(bench).versions == {4, 6}


async def test_without_an_exit_a_kill_switch_that_was_left_is_removed() -> None:
    bench = with_exits()
    async with bench.running() as node:
        await eventually(bench.follows)
        assert bench.firewall.guards == [None]
        assert node.exit_keeper.report() is None
        assert bench.link.settings is not None
        assert bench.link.settings.exit_mark is None
        assert bench.device.fwmark == 0


async def test_a_stop_removes_the_kill_switch() -> None:
    bench = with_exits("node-1")
    async with bench.running() as node:
        await eventually(lambda: exits(bench) == {1: {*BOTH}})
    await node.exit_keeper.stop()
    assert bench.firewall.guards[-1] is None


async def test_a_policy_without_a_grant_to_the_internet_blocks_everything(db: Bench) -> None:
    db.exit_nodes = ("node-1",)
    db.chain.mine(policy(db, 1, OPEN), RoutesUpdated(1, BOTH))
    async with db.running():
        await eventually(lambda: "no grant of the policy has autogroup:internet" in db.component("exit"))
        assert exits(db) == {}
        db.source.tell(db.chain.mine(policy(db, 2, OPEN, OPEN | {"dst": ["autogroup:internet"]})))
        await eventually(lambda: exits(db) == {1: {*BOTH}})
