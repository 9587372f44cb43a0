"""Exit nodes end to end: real daemons, and a capture on the member's uplink."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from demo.echo import echoes, serving
from demo.lab import Lab, Tools
from demo.node import LabNode, new_key
from tests.netns.capture import Capture, Seen
from tests.netns.clients import OWNER_KEY, check_of
from tests.netns.exits import (
    FAR,
    INTERNET,
    PORT,
    RELAY,
    SSH,
    World,
    behind,
    build,
    guarded,
    kill_all,
    logged,
    ours_left,
    routes_of,
    serve_names,
)
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.access import exits as exits_module
from dstack_vpn.core.access.gateways import RETURN
from dstack_vpn.core.policy.networks import HAS_EXIT
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]
GUIDE: Final = Path(__file__).parents[2] / "docs" / "exits.md"


@pytest.fixture(scope="module")
def world(tools: Tools) -> Iterator[World]:
    with Lab(tools) as lab:
        lab.start_chain()
        yield build(lab)


def test_the_preferred_exit_is_used_again_after_it_has_answered_for_a_while(world: World) -> None:
    member = world.member
    first, second = world.exits
    world.start()
    with world.watched() as leaks:
        wait_until(lambda: guarded(member), "the kill switch is in force")
        began = len(leaks.capture.seen)
        world.wait_exit(first)
        wait_until(lambda: world.round_trip(first) is not None, "the exit is measured")
        kill_all(first)
        assert world.wait_exit(second) < 10
        back = time.monotonic()
        first.start()
        first.wait_ready()
        world.wait_exit(first, RETURN + 20)
        assert time.monotonic() - back >= RETURN
    assert [each for each in leaks.leaked if each in leaks.capture.seen[began:]] == []
    assert [line["node"] for line in logged(member.log, "exit.used")] == ["gw-1", "gw-2", "gw-1"]
    wait_until(lambda: member.component("exit") == ("ok", "by gw-1"), "health is well again")
    assert member.stop() == 0


def test_an_exit_that_has_an_exit_is_none_for_others(world: World) -> None:
    member = world.member
    first, second = world.exits
    settings = first.settings
    first.stop()
    first.namespace.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1")
    first.settings = {**settings, "EXIT_NODE": "gw-2"}
    first.start()
    wait_until(lambda: first.component("exit") == ("ok", "by gw-2"), "gw-1 has an exit of its own")
    problem = f"0.0.0.0/0: {HAS_EXIT}; ::/0: {HAS_EXIT}"
    warning = ("warning", f"this node does not forward to its routes: {problem}")
    wait_until(lambda: first.component("networks") == warning, "health reports it")
    check = check_of(first, "networks")
    assert (check["status"], check["found"]) == ("warn", f"it does not forward to {problem}")
    for address, own in zip(FAR, ("9.9.9.12", "2620:fe:9::12"), strict=True):
        assert world.source(address, inside=first.namespace) == own

    # The member's packets leave neither by gw-1, whose main table has a route, nor by its exit.
    world.start(EXIT_NODE="gw-1")
    wait_until(lambda: member.component("exit") == ("ok", "by gw-1"), "gw-1 is used")
    with world.watched() as leaks, by_uplinks(world) as uplinks:
        for address in (*INTERNET, *FAR):
            assert not world.source(address, 0.3)
        leaks.wait_control()
    assert leaks.leaked == []
    assert uplinks() == []

    # Two nodes that have each other as the exit: nothing leaves, and nothing loops.
    second.stop()
    second.namespace.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1")
    second.start(EXIT_NODE="gw-1")
    for node, name in ((second, "gw-1"), (first, "gw-2")):
        wait_until(lambda: node.component("exit") == ("ok", f"by {name}"), f"{node.name} has an exit")  # noqa: B023  # used in the same iteration
    with Capture(world.lab.chain.namespace, f"to-{first.name}") as between, by_uplinks(world) as uplinks:
        for address in (*INTERNET, *FAR):
            assert not world.source(address, 0.3, inside=first.namespace)
    assert uplinks() == []
    assert len(between.seen) < 100, "a loop would carry each packet 60 times"

    assert member.stop() == 0
    first.settings = settings
    for node in world.exits:
        node.stop()
        node.start()
        node.wait_ready()


@contextmanager
def by_uplinks(world: World) -> Iterator[Callable[[], list[Seen]]]:
    """Capture what the exits send to the internet; yields a function that returns it."""
    targets = {*INTERNET, *FAR}
    with Capture(world.internet, "to-gw1") as first, Capture(world.internet, "to-gw2") as second:
        yield lambda: [each for each in (*first.seen, *second.seen) if each.destination in targets]


def test_everything_leaves_by_the_exit_and_nothing_beside_it(world: World) -> None:
    lab, member = world.lab, world.member
    first, second = world.exits
    # Without an exit the chatter is seen: the capture works.
    with world.watched() as leaks:
        wait_until(lambda: {each.destination for each in leaks.leaked} >= {*INTERNET}, "packets are captured")

    world.start()
    wait_until(lambda: guarded(member), "the kill switch is in force")
    with world.watched() as leaks:
        # Start: the registry is read, the tunnel is made and the exit chosen.
        world.wait_exit(first)
        member.wait_ready()
        assert member.component("exit") == ("ok", "by gw-1")
        assert member.get("/stats")["reports"]["exit"]["used"] == "gw-1"
        leaks.wait_control()

        # Connections from outside get their replies, and members are reached.
        for address in (member.underlay, "fd00:77::2"):
            with serving(member, address, SSH):
                assert comes_in(world, address, SSH)
        member.wait_reaches(second.address)

        # The daemon is killed. WireGuard goes on, and a new daemon takes over.
        member.stop(signal.SIGKILL)
        assert world.source(INTERNET[0]) == "9.9.9.11"
        world.start()
        member.wait_ready()
        world.wait_exit(first)

        # WireGuard is killed too. Nothing leaves, until both are back.
        kill_all(member)
        for address in INTERNET:
            assert not world.source(address, 0.3)
        assert guarded(member)
        world.start()
        world.wait_exit(first)
        member.wait_ready()
        leaks.wait_control()
    assert leaks.leaked == []
    assert len(leaks.sent) > 20

    # The exit dies, and everything moves to the next one.
    with world.watched() as leaks:
        wait_until(lambda: world.round_trip(first) is not None, "the exit is measured")
        kill_all(first)
        assert world.wait_exit(second) < 10
        wait_until(lambda: member.component("exit")[0] == "warning", "health reports the second exit")
        assert member.component("exit")[1] == "by gw-2; gw-1 does not answer"

        # The second one loses its access. Nothing leaves; control traffic goes on.
        mined = lab.revoke(second)
        lab.lost(mined, second.public_key, (member,))
        for address in INTERNET:
            assert not world.source(address, 0.3)
        key = derive(new_key())
        lab.gained(lab.mint_key("other", key), key, (member,))
        leaks.wait_control()
        silent = ("failed", "gw-1 does not answer, so nothing leaves")
        wait_until(lambda: member.component("exit") == silent, "health reports that no exit answers")

        # The first one comes back.
        first.start()
        world.wait_exit(first, 30)
    assert leaks.leaked == []
    used = [line["node"] for line in logged(member.log, "exit.used")]
    assert used[-2:] == ["gw-2", "gw-1"]

    # A clean stop removes everything.
    assert member.stop() == 0
    assert ours_left(member) == []
    assert world.source(INTERNET[0], 0.3) == ""


def comes_in(world: World, address: str, port: int) -> bool:
    """Return whether a connection from outside to the member is answered."""
    with world.lab.chain.namespace.entered(), socket.create_connection((address, port), 1.0) as operator:
        return echoes(operator)


def test_bad_input_is_refused_or_blocks_and_changes_nothing_else(world: World) -> None:
    member, run = world.member, world.member.namespace.run
    # Another VPN with rules of its own, and a filter that would drop the replies to marked packets.
    vpn = ("priority", "32000", "not", "fwmark", "0xca6c", "table", "51820")
    run("ip", "rule", "add", *vpn)
    assert "lookup 51820' of another program" in refused(world)
    run("ip", "rule", "delete", *vpn)
    run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=0")
    assert "sysctl -w net.ipv4.conf.all.src_valid_mark=1" in refused(world)
    run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1")

    # Names that can't be used. gw-2 was revoked.
    world.start(EXIT_NODE="nobody,m,gw-2")
    wait_until(lambda: guarded(member), "the kill switch is in force")
    reasons = "nobody: there is no such node; m: it is this node; gw-2: it is not on the network: revoked"
    with world.watched() as leaks:
        wait_until(lambda: member.component("exit") == ("failed", f"nothing leaves: {reasons}"), "health")
        for address in INTERNET:
            assert not world.source(address, 0.3)
        leaks.wait_control()
        assert logged(member.log, "exit.blocked")[-1]["reason"] == reasons
        notes = json.loads(run_plan(world, "nobody,m,gw-2"))["notes"]
        assert "EXIT_NODE: nobody can't be used: there is no such node" in notes
        assert "EXIT_NODE: nothing leaves this machine, except control traffic" in notes
    assert leaks.leaked == []
    assert member.stop() == 0
    assert ours_left(member) == []


def refused(world: World) -> str:
    """Start the member, which is refused and changes nothing; returns its log."""
    member = world.member
    size = member.log.stat().st_size
    world.start()
    daemon = member.daemon
    assert daemon is not None
    assert daemon.wait(15) == 78
    member.daemon = None
    assert ours_left(member) == []
    return member.log.read_text()[size:]


def run_plan(world: World, exits: str) -> str:
    """Return what ``plan`` prints as JSON beside the running daemon."""
    member = world.member
    done = subprocess.run(
        member.namespace.command(sys.executable, "-m", "dstack_vpn", "plan", "--json"),
        env=member.environment() | {"EXIT_NODE": exits},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_by_the_exit_and_an_interface_that_is_kept(world: World) -> None:
    member = world.member
    first, _ = world.exits
    serve_names(world.internet, INTERNET[0])
    first.stop()
    first.start(DNS_UPSTREAM=INTERNET[0])
    first.wait_ready()
    world.start(EXIT_NODE="gw-1", KEEP_INTERFACE="1")
    world.wait_exit(first)
    assert dig(world, "name.example") == "192.0.2.53"
    assert dig(world, "gw-1.vpn.internal") == first.address
    changes = json.loads(run_plan(world, "gw-1"))
    assert changes["changes"] == []
    assert "EXIT_NODE: everything leaves by gw-1" in changes["notes"]

    # Everything goes on without the daemon. A daemon without an exit removes it all.
    assert member.stop() == 0
    assert guarded(member)
    assert world.source(INTERNET[0]) == "9.9.9.11"
    member.start()
    member.wait_ready()
    assert not guarded(member)
    assert not [line for line in ours_left(member) if "lookup" in line]
    wait_until(lambda: not world.source(INTERNET[0], 0.3), "packets leave as the host routes them")
    assert member.stop() == 0


def dig(world: World, name: str) -> str:
    """Return the address that the member's own name server replies."""
    member = world.member
    return member.namespace.run("dig", f"@{member.address}", "+short", "+timeout=3", name).strip()


def test_under_a_policy_a_member_needs_a_grant_to_the_internet(world: World) -> None:
    lab, member = world.lab, world.member
    first, _ = world.exits
    world.start(EXIT_NODE="gw-1")
    world.wait_exit(first)
    with world.watched() as leaks:
        for source, ports in (("node:gw-2", "*"), ("node:m", f"tcp:{PORT}")):
            grant = {"src": [source], "dst": ["autogroup:internet"], "ip": [ports]}
            lab.chain.send(calls.set_policy(json.dumps({"grants": [grant]})))
            if source == "node:m":
                # This grant alone makes the exit a peer.
                world.wait_exit(first)
                assert not member.reaches(INTERNET[0]), "other protocols are not granted"
            else:
                wait_until(lambda: "no grant" in member.component("exit")[1], "the policy is known")
                for address in INTERNET:
                    assert not world.source(address, 0.3)
        leaks.wait_control()
    assert leaks.leaked == []
    lab.chain.send(calls.set_policy(""))
    assert member.stop() == 0


def test_a_relay_carries_the_way_to_the_exit(world: World) -> None:
    first, member = world.exits[0], world.member
    first.stop()
    first.start(RELAY_LISTEN=f"tcp://0.0.0.0:{RELAY}")
    first.wait_ready()
    relay = f"tcp://{first.underlay}:{RELAY}"
    with without_udp(first, member):
        world.start(EXIT_NODE="gw-1", TRANSPORT="tcp", PEER_ENDPOINTS=f"gw-1={relay}")
        wait_until(lambda: guarded(member), "the kill switch is in force")
        with world.watched() as leaks:
            world.wait_exit(first)
        assert member.stop() == 0
    assert leaks.leaked == []
    ways = {(each.destination, each.protocol, each.port) for each in leaks.sent}
    assert (first.underlay, socket.IPPROTO_TCP, RELAY) in ways


@contextmanager
def without_udp(node: LabNode, other: LabNode) -> Iterator[None]:
    """Block UDP between two nodes. The first would reach the other one at its former endpoint."""
    rules = (
        "add table inet blocked",
        "add chain inet blocked input { type filter hook input priority 0; }",
        "add chain inet blocked output { type filter hook output priority 0; }",
        f"add rule inet blocked input ip saddr {other.underlay} meta l4proto udp drop",
        f"add rule inet blocked output ip daddr {other.underlay} meta l4proto udp drop",
    )
    node.namespace.run("nft", "; ".join(rules))
    try:
        yield
    finally:
        node.namespace.run("nft", "delete table inet blocked")


def test_containers_behind_the_member_leave_by_its_exit(world: World) -> None:
    member = world.member
    first, _ = world.exits
    container = behind(world)
    world.start(EXIT_NODE="gw-1")
    world.wait_exit(first)
    with world.watched() as leaks:
        assert world.source(INTERNET[0], inside=container) == "9.9.9.11"
        member.stop(signal.SIGKILL)
        kill_all(first)
        assert not world.source(INTERNET[0], 0.3, inside=container)
        member.namespace.run("ip", "link", "delete", "wg0")
        assert not world.source(INTERNET[0], 0.3, inside=container)
        assert not world.source(INTERNET[0], 0.3)
        first.start()
        world.start(EXIT_NODE="gw-1")
        world.wait_exit(first)
        assert world.source(INTERNET[0], inside=container) == "9.9.9.11"
    assert leaks.leaked == []
    assert member.stop() == 0


def test_a_node_of_a_development_chain_joins_under_a_kill_switch_that_was_left(world: World) -> None:
    member, first = world.member, world.exits[0]
    world.start(EXIT_NODE="gw-1")
    world.wait_exit(first)
    kill_all(member)
    assert guarded(member)
    with world.watched() as leaks:
        with member.log.open("ab") as log:
            member.daemon = member.namespace.popen(
                *(sys.executable, "-m", "dstack_vpn", "dev", "join", "--at", member.underlay),
                env=member.environment() | {"EXIT_NODE": "gw-1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        world.wait_exit(first)
    assert leaks.leaked == []
    assert member.stop() == 0


def test_the_commands_of_the_guide(world: World) -> None:
    """The `sh` blocks of docs/exits.md run unchanged: the last one after everything was killed."""
    lab, member = world.lab, world.member
    first, _ = world.exits
    forwarding, routes, marks, look, clean = re.findall(
        r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    routes_of(lab, first)
    owner = lab.run.home / "owner.key"
    owner.touch(0o600)
    owner.write_text(OWNER_KEY.read_text())
    environment = member.environment() | {"EXIT_NODE": "gw-1", "PYTHONUNBUFFERED": "1"}

    def run(node: LabNode, block: str) -> str:
        script = f'dstack-vpn() {{ "{sys.executable}" -m dstack_vpn "$@"; }}\n{block}'
        script = script.replace("/etc/dstack-vpn/owner.key", str(owner))
        done = subprocess.run(
            node.namespace.command("bash", "-euc", script),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(first, forwarding)
    run(member, marks)
    world.start(EXIT_NODE="gw-1")
    wait_until(lambda: "it is not an exit" in member.component("exit")[1], "gw-1 has no routes")
    run(member, routes)
    world.wait_exit(first)
    member.wait_ready()
    shown = run(member, look)
    assert "1.1.1.1 dev wg0 table 11800" in shown
    assert "everything leaves by gw-1" in shown
    kill_all(member)
    assert guarded(member)
    run(member, clean)
    assert not guarded(member)
    left = ours_left(member)
    assert not [line for line in left if "lookup" in line or "11800" in line], left


def test_each_reason_of_the_guide_is_in_the_sources() -> None:
    source = (Path(exits_module.__file__)).read_text()
    reasons = re.findall(r"^\| `([^`]*)` \|", GUIDE.read_text(), re.MULTILINE)
    assert len(reasons) == 6
    for reason in reasons:
        assert reason in source
