"""Exit nodes end to end: real daemons, and a capture on the member's uplink."""

import signal
import socket
from collections.abc import Iterator

import pytest
from demo.echo import echoes, serving
from demo.lab import Lab, Tools
from demo.node import new_key
from tests.netns.exits import (
    INTERNET,
    SSH,
    World,
    build,
    guarded,
    kill_all,
    logged,
    ours_left,
)
from tests.netns_support import wait_until

from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def world(tools: Tools) -> Iterator[World]:
    with Lab(tools) as lab:
        lab.start_chain()
        yield build(lab)


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
        leaks.wait_control()

        # Connections from outside get their replies, and members are reached.
        for address in (member.underlay, "fd00:77::2"):
            with serving(member, address, SSH):
                assert comes_in(world, address, SSH)
        member.wait_reaches(second.address)

        # The daemon is killed. WireGuard goes on, and a new daemon takes over.
        member.stop(signal.SIGKILL)
        assert world.source(INTERNET[0]) == "198.51.100.11"
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
        assert world.wait_exit(second) < 6
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
        assert member.component("exit")[0] == "failed"

        # The first one comes back.
        first.start(LEAK_PROTECTION="off")
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
