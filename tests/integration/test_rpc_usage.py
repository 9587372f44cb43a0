"""The use of RPC endpoints in a running daemon, and the commands that show it."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any

import pytest
from tests.fake_chain import FakeServer
from tests.integration.conftest import MakeRig
from tests.integration.pairs import Pair, members
from tests.integration.support import Rig, eventually
from tests.ports import free_port

from dstack_vpn.adapters.doctor.cost import cost
from dstack_vpn.config import load
from dstack_vpn.core.chain import usage_days
from dstack_vpn.core.chain.budget import LONGEST
from dstack_vpn.wiring.view import NodeView
from dstack_vpn.wiring.web import serve_node


@asynccontextmanager
async def served(rig: Rig) -> AsyncIterator[dict[str, str]]:
    """Serve the node's API; yield the settings of commands that use it."""
    settings = {"NETWORK": "local", "HEALTH_CHECK_PORT": str(free_port()), "STATE_DIR": str(rig.state_dir)}
    view = NodeView(rig.node, rig.state_dir, None, {})
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve_node(view, load(environment=settings)))
        await eventually(lambda: view.web is not None and view.web[0].problem is None, "the server")
        yield settings
        server.cancel()


async def complete(rig: Rig) -> None:
    """Wait until the node has read everything."""
    await eventually(lambda: rig.node.chain.state.follower.registry.contract.is_read, "the contract's state")
    await rig.quiet()


async def command(settings: dict[str, str], *arguments: str) -> str:
    """Return the output of a command in a process of its own."""
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dstack_vpn", *arguments),
        env={**os.environ, **settings},  # noqa: TID251  # for the child process
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await done.communicate()
    assert done.returncode == 0
    return out.decode()


async def report(settings: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await command(settings, "status", "--json"))["stats"]
    return found


async def matching(settings: dict[str, str], server: FakeServer) -> dict[str, Any]:
    """Return a report with the calls that the endpoint counted; a probe may come between."""
    counts: dict[str, int] = {}
    for _ in range(5):
        stats = await report(settings)
        (methods,) = stats["rpc"]["since_start"]["endpoints"].values()
        counts = {name: each["count"] for name, each in methods.items() if name != "eth_subscription"}
        if counts == dict(server.faults.calls):
            return stats
    raise AssertionError(f"{counts} is not {dict(server.faults.calls)}")


async def test_status_and_stats_have_the_calls_that_the_endpoint_counted(
    fake_chain: FakeServer, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_rig(fake_chain.ws, fake_chain.chain.contract).running() as rig, served(rig) as settings:
        for _ in range(3):
            await fake_chain.chain.mine()
        await eventually(lambda: rig.tip == fake_chain.chain.head.number, "the last block")
        await complete(rig)
        stats = await matching(settings, fake_chain)
        rpc, (methods,) = stats["rpc"], stats["rpc"]["since_start"]["endpoints"].values()
        assert methods["eth_subscription"]["count"] == 3
        assert rpc["today"]["calls"] == sum(each["count"] for each in methods.values()) - 3
        assert rpc["estimate"] is None

        line = (await command(settings, "status", "--once")).splitlines()[1]
        shown = re.fullmatch(r"RPC today: (\d+) calls, 3 notifications, \d+\.\d MB", line)
        assert shown is not None, line
        assert rpc["today"]["calls"] <= int(shown[1]) <= sum(fake_chain.faults.calls.values())
        assert cost(stats).found.startswith("not known yet")

        monkeypatch.setattr(usage_days, "ENOUGH", 0.0)
        line = (await command(settings, "status", "--once")).splitlines()[1]
        assert re.search(r"MB; about [\d,]+ calls, [\d,]+ notifications, [\d,]+\.\d MB a day$", line), line
        sentence = cost(await report(settings)).found
        assert re.search(r"^this node costs about [\d,]+ calls, .* compute units a day$", sentence), sentence


async def test_a_restart_continues_the_day(fake_chain: FakeServer, make_rig: MakeRig) -> None:
    server = fake_chain
    async with make_rig(server.ws, server.chain.contract).running() as rig:
        await complete(rig)
    async with make_rig(server.ws, server.chain.contract).running() as rig, served(rig) as settings:
        await complete(rig)
        before = sum(server.faults.calls.values())
        rpc = (await report(settings))["rpc"]
        assert rpc["since_start"]["calls"] < before <= rpc["today"]["calls"]
        assert rpc["last_days"]["calls"] <= sum(server.faults.calls.values())


@pytest.mark.parametrize("quorum", ["1", "2"])
async def test_a_spent_budget_delays_resyncs_alone(pair: Pair, make_rig: MakeRig, quorum: str) -> None:
    """The first call spends it. Grants need readings, with a quorum those of both endpoints."""
    environment = {"RPC_QUORUM": quorum, "RPC_DAILY_CALLS": "1"}
    rig = make_rig(pair.urls("ws"), pair.chain.contract, resync_interval=0.05, environment=environment)
    state_of = attrgetter("node.chain.state")
    async with rig.running():
        await eventually(lambda: state_of(rig).until_resync(0.0, 0.05) == LONGEST, "a spent budget")
        await eventually(lambda: quorum == "1" or state_of(rig).resyncs, "the first resync of a quorum")
        begun = state_of(rig).resyncs
        for number in range(1, 6):
            await pair.chain.mint(number)
            await rig.settle(members(pair.chain), "a grant")
            await pair.chain.revoke(number)
            await rig.settle(members(pair.chain), "a revocation")
            await asyncio.sleep(0.1)  # two intervals
        assert state_of(rig).resyncs <= begun + 1, "one may have been under way"
        assert rig.component("rpc budget").startswith("warning: ")
        assert quorum == "1" or rig.component("quorum") == "ok: "
