"""Names for roles on three real nodes, two of them in distant regions, as docs/names.md has it.

The node ``web-1`` reaches ``db-eu`` and ``db-us`` over forwarders that delay WireGuard's datagrams
(`delaying`). It has no endpoint in the registry, so their replies take the same way.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from demo.lab import Lab, Tools
from demo.node import WIREGUARD_PORT, LabNode
from tests.netns.test_names import dig, getent, point
from tests.netns_support import Namespace, is_usable, wait_until

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.echo import IcmpEcho

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]
ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "names.md"
OWNER_KEY: Final = ROOT / "docker" / "devchain" / "account0.key"
DELAYS: Final = {"db-us": 0.120, "db-eu": 0.030}
"""Seconds of a round trip. The farther node has the lower token id."""
FORWARDER: Final = 51999
GONE: Final = 8.0
"""Seconds after which a dead member is not in the answer (docs/names.md)."""
ROLE: Final = "db.tag.vpn.internal"


def note(figure: str) -> None:
    """Write a figure to the test's output."""
    sys.stderr.write(f"{figure}\n")


class Regions:
    """The three nodes, which have no tag yet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.web = lab.add_node("web-1")
        lab.mint(self.web)
        for name, delay in DELAYS.items():
            node = lab.add_node(name)
            lab.mint(node)
            place = f"{node.underlay}:{FORWARDER}"
            lab.chain.send(calls.set_endpoint(node.token, place), sender=node.owner)
            script = Path(__file__).with_name("delaying.py")
            there = node.underlay, str(FORWARDER), node.underlay, str(WIREGUARD_PORT), str(delay)
            process = node.namespace.popen(sys.executable, script, *there, stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        for node in lab.nodes.values():
            node.start()
        for node in lab.nodes.values():
            node.wait_ready()
        self.us, self.eu = (lab.nodes[name] for name in DELAYS)
        self.folder = lab.run.home / "guide"
        self.folder.mkdir()

    def ask(self, name: str = ROLE, kind: str = "A") -> list[str]:
        """Return the answer's addresses in their order."""
        return dig(self.web, self.web.address, name, kind).split()

    def wait_for(self, *nodes: LabNode, timeout: float = 10.0) -> float:
        """Wait for an answer with exactly these nodes in this order; return the seconds."""
        began, wanted = time.monotonic(), [node.address for node in nodes]
        named = ", ".join(node.name for node in nodes) or "nothing"
        wait_until(lambda: self.ask() == wanted, f"the answer is {named}", timeout)
        return time.monotonic() - began

    def tag(self, node: LabNode, mask: int) -> None:
        """Set a node's tags, and wait until web-1 has the event."""
        mined = self.lab.chain.send(calls.set_tags(node.token, mask))
        journal = self.web.journal
        seen = lambda: journal.find("chain.event", mined.ordered, token=node.token)  # noqa: E731 - a condition
        wait_until(seen, "web-1 has the event")

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run commands on web-1's machine, with the key of the registry's owner."""
        key = self.folder / "owner.key"
        key.touch(mode=0o600)
        key.write_text(OWNER_KEY.read_text())
        environment = dict(self.web.environment()) | {"CONTRACT_PRIVATE_KEY_FILE": str(key)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{self.web.settings['PATH']}"
        process = self.web.namespace.popen(
            *("bash", "-euo", "pipefail", "-c", f"cd {self.folder}\n{script}"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, problems = process.communicate(timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, said, problems)


def test_a_node_without_privileges_measures_by_ping_sockets() -> None:
    if not is_usable():
        pytest.skip("NO ROOT, NAMESPACES OR TUN: this test is SKIPPED; run it as root")
    replies: list[tuple[int, str, float]] = []

    async def measure() -> None:
        echo = IcmpEcho()
        assert echo.start(lambda *reply: replies.append(reply)) is None
        assert not any(opened.raw for opened in echo._sockets.values())
        for nonce, address in enumerate(("127.0.0.1", "::1")):
            echo.send(address, nonce)
        async with asyncio.timeout(5):
            while len(replies) < 2:  # noqa: ASYNC110 - the callback has no event
                await asyncio.sleep(0.01)
        echo.close()

    with Namespace() as namespace:
        namespace.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        with namespace.entered():
            asyncio.run(measure())
    assert sorted((nonce, address) for nonce, address, _ in replies) == [(0, "127.0.0.1"), (1, "::1")]


@pytest.fixture(scope="module")
def regions(tools: Tools) -> Iterator[Regions]:
    with Lab(tools) as lab:
        lab.start_chain()
        yield Regions(lab)


def test_the_guide_leads_to_the_nearer_region(regions: Regions, tmp_path: Path) -> None:
    """Run the commands of the guide in their order; every later test needs its tag."""
    node, define, ask, look = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert regions.run(define).returncode == 0
    first = regions.run(node + ask)
    assert first.returncode == 0, first.stderr
    took = regions.wait_for(regions.eu, regions.us)
    note(f"the order is right after {took:.2f} s")
    eu, us = regions.eu.address, regions.us.address
    assert regions.run(ask).stdout.split() == [eu, us, eu]
    ipv6 = [
        dig(regions.web, regions.web.address, f"{name}.vpn.internal", "AAAA") for name in ("db-eu", "db-us")
    ]
    assert regions.ask(kind="AAAA") == ipv6
    point(regions.web, regions.web.address, tmp_path)
    assert getent(regions.web, "ahostsv4", ROLE).split()[0] == eu
    assert getent(regions.web, "ahosts", f"nearest.{ROLE}").split()[0] in {eu, ipv6[0]}
    note("glibc's order: " + " ".join(getent(regions.web, "ahosts", ROLE).split()[::3]))

    def measured() -> dict[str, float | None]:
        return {each["node_id"]: each["round_trip_ms"] for each in regions.web.get("/peers")["peers"]}

    wait_until(lambda: all(measured().values()), "both are measured")
    note(f"measured: {measured()}")
    # The first values include the time for which a busy machine keeps the forwarders waiting.
    expected = {name: pytest.approx(delay * 1000, rel=0.5) for name, delay in DELAYS.items()}
    wait_until(lambda: measured() == expected, "the measured delays are those of the forwarders", 30.0)
    shown = regions.run(look)
    assert shown.returncode == 0, shown.stderr
    status, _, document = shown.stdout.partition("{")
    rows = {line.split()[0]: line for line in status.splitlines() if line.startswith("db-")}
    for name in DELAYS:
        assert re.search(r"round trip \d+\.\d ms", rows[name]), status
    assert json.loads("{" + document)["peers"]
    metrics = regions.web.fetch("127.0.0.1", 8080, "/metrics")
    assert 'dstack_vpn_peer_round_trip_seconds{node_id="db-eu"' in metrics


def test_a_machine_that_is_cut_off_leaves_the_answer_and_comes_back(regions: Regions) -> None:
    regions.wait_for(regions.eu, regions.us)
    regions.eu.namespace.run("ip", "link", "set", "eth0", "down")
    took = regions.wait_for(regions.us, timeout=GONE)
    assert regions.ask(f"nearest.{ROLE}") == [regions.us.address]
    regions.eu.namespace.run("ip", "link", "set", "eth0", "up")
    back = regions.wait_for(regions.eu, regions.us, timeout=25)
    note(f"gone after {took:.2f} s, back after {back:.2f} s")


def test_a_killed_member_leaves_the_answer_and_comes_back(regions: Regions) -> None:
    regions.wait_for(regions.eu, regions.us)
    regions.eu.stop(signal.SIGKILL)
    pid = regions.eu.namespace.pid_of("wireguard-go")
    assert pid is not None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    took = regions.wait_for(regions.us, timeout=GONE)
    regions.eu.start()
    regions.eu.wait_ready()
    back = regions.wait_for(regions.eu, regions.us, timeout=30)
    note(f"gone after {took:.2f} s, back after {back:.2f} s")


def test_if_no_member_answers_all_are_the_answer(regions: Regions) -> None:
    regions.wait_for(regions.eu, regions.us)
    regions.web.namespace.run("ip", "link", "set", "eth0", "down")
    end = time.monotonic() + GONE
    while time.monotonic() < end:
        assert set(regions.ask()) <= {regions.eu.address, regions.us.address}
        assert regions.ask()
        time.sleep(0.2)  # a query at the rate of a client
    regions.web.namespace.run("ip", "link", "set", "eth0", "up")
    regions.wait_for(regions.eu, regions.us, timeout=25)


def test_a_tag_counts_as_soon_as_the_node_has_its_event(regions: Regions) -> None:
    regions.wait_for(regions.eu, regions.us)
    regions.tag(regions.eu, 0)
    assert regions.ask() == [regions.us.address]
    regions.tag(regions.web, 1)
    assert regions.ask()[0] == regions.web.address, "it is the nearest to itself"
    regions.tag(regions.web, 0)
    regions.tag(regions.us, 0)
    assert regions.ask() == []
    said = regions.web.namespace.run("dig", f"@{regions.web.address}", ROLE)
    assert "status: NOERROR" in said
    said = regions.web.namespace.run("dig", f"@{regions.web.address}", "mail.tag.vpn.internal")
    assert "status: NXDOMAIN" in said
    for node in (regions.eu, regions.us):
        regions.tag(node, 1)
    regions.wait_for(regions.eu, regions.us)


def test_under_a_policy_only_peers_appear(regions: Regions) -> None:
    grants = [{"src": ["node:web-1"], "dst": ["node:db-us"], "ip": ["tcp:5432"]}]
    regions.lab.set_policy(json.dumps({"grants": grants}), (regions.web,))
    regions.wait_for(regions.us)
    denied = regions.us.get("/policy")["recent"]
    assert [each for each in denied if each["protocol"] == "icmp"] == []
