"""The gate over an in-memory packet filter: names that move, missing rules, and refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from structlog.testing import capture_logs
from tests.memory_firewall import MemoryFirewall
from tests.unit.core.policy.examples import PLAN
from tests.unit.daemon.conftest import ScriptedResolver, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.paths.port_forward import Forward
from dstack_vpn.core.policy.selection import PolicySelection
from dstack_vpn.daemon.device.firewall import FirewallController
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.ports import PortForward

PREFIXES = frozenset({"10.77.0.0/16"})
CLOSED = frozenset({("udp", 51820)})


@asynccontextmanager
async def running(
    firewall: MemoryFirewall, resolver: ScriptedResolver, *forwards: str
) -> AsyncIterator[FirewallController]:
    parsed = tuple(map(Forward.parse, forwards))
    clock, published = SystemClock(), list[Event]()
    firewall_controller = FirewallController(
        firewall=firewall,
        resolver=resolver,
        interface="wg0",
        prefixes=PREFIXES,
        protect=True,
        policies=Policies(PLAN, PolicySelection(), clock, published.append, has_exit=False),
        clock=clock,
        publish=published.append,
        enforced=lambda: None,
        unenforced=lambda: None,
        filled=asyncio.Event(),
        exits=False,
        noticed=lambda: None,
        closed=CLOSED,
        forwards=parsed,
        check=0.005,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(firewall_controller.run())
        yield firewall_controller
        task.cancel()


async def test_what_protects_does_not_wait_for_names() -> None:
    firewall = MemoryFirewall()
    async with running(
        firewall, ScriptedResolver({"web": "192.0.2.7"}), "80=web:8000"
    ) as firewall_controller:
        await eventually(lambda: len(firewall.history) == 2)
        assert not firewall.history[0].port_forwards
        assert {rules.closed for rules in firewall.history} == {CLOSED}
        assert firewall.history[1].port_forwards == {PortForward("tcp", 80, "192.0.2.7", 8000)}
        assert firewall_controller.problem is None
        await firewall_controller.stop()
        assert firewall.rules is None


async def test_a_name_that_moves_is_followed_and_one_that_vanishes_is_told() -> None:
    firewall, resolver = MemoryFirewall(), ScriptedResolver({"web": "192.0.2.7"})
    async with running(firewall, resolver, "80=web", "81=192.0.2.9") as firewall_controller:
        await eventually(lambda: firewall.rules and len(firewall.rules.port_forwards) == 1)
        resolver.names |= {"web": "192.0.2.8", "192.0.2.9": "192.0.2.9"}
        await eventually(lambda: firewall.rules and len(firewall.rules.port_forwards) == 2)
        await eventually(lambda: firewall_controller.problem is None)
        del resolver.names["web"]
        await eventually(lambda: firewall_controller.problem)
        assert firewall_controller.problem == "FORWARD_TO: no address for tcp:80=web:80"
        assert firewall.rules is not None
        assert {port_forward.port for port_forward in firewall.rules.port_forwards} == {81}, (
            "the other goes on"
        )


async def test_rules_that_somebody_flushed_are_set_again() -> None:
    firewall = MemoryFirewall()
    async with running(firewall, ScriptedResolver()):
        await eventually(lambda: firewall.rules)
        firewall.rules = None
        await eventually(lambda: firewall.rules)


async def test_rules_that_are_edited_again_and_again_are_logged_once() -> None:
    firewall = MemoryFirewall()
    with capture_logs() as logs:
        async with running(firewall, ScriptedResolver()):
            for count in range(1, 5):
                await eventually(partial(firewall.was_applied, count))
                firewall.was_edited = True
    assert [line["event"] for line in logs].count("firewall.gone") == 1


async def test_a_table_that_drops_what_we_forward_is_in_health() -> None:
    firewall = MemoryFirewall(drops="FORWARD_TO: the table 'ip filter' drops")
    async with running(
        firewall, ScriptedResolver({"web": "192.0.2.7"}), "80=web", "81=gone"
    ) as firewall_controller:
        await eventually(lambda: firewall_controller.problem and "drops" in firewall_controller.problem)
        assert firewall_controller.problem == f"FORWARD_TO: no address for tcp:81=gone:81; {firewall.drops}"
        assert firewall.rules is not None and firewall.rules.port_forwards
        firewall.drops = None
        await eventually(lambda: "drops" not in (firewall_controller.problem or ""))


async def test_a_refusal_is_told_and_tried_again() -> None:
    firewall = MemoryFirewall(refuse="no")
    async with running(firewall, ScriptedResolver()) as firewall_controller:
        await eventually(lambda: firewall_controller.problem == "no")
        firewall.refuse = None
        await eventually(lambda: firewall.rules and firewall_controller.problem is None)
        firewall.refuse = "no more"
        await firewall_controller.stop()
