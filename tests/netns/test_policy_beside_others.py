"""A policy beside the rules of ufw, firewalld and Docker, and beside programs that flush all rules.

The files in `firewalls` were recorded from the real programs: ufw and firewalld with the port of
SSH open and everything else closed, Docker with a published port (8080 to port 80 of a container).
"""

import asyncio
import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests import netns_support
from tests.netns.test_policy_packets import FIRST, SSH, V4, WAYS, Pair, Way, pair, rules
from tests.netns_support import Namespace, connect

from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.core.policy.rules import PortRight
from dstack_vpn.core.policy.selectors import Protocol

__all__ = ["pair"]
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
    pytest.mark.skipif(shutil.which("iptables-restore") is None, reason="NO IPTABLES: scripts/setup-docker"),
]
FOLDER = Path(__file__).parent / "firewalls"
TABLE = "dstack_vpn_h1_2dw"
CONTAINER = "172.17.0.2"
OTHER = PortRight(Protocol.TCP, 23, 30, FIRST)
"""Ports that ufw and firewalld close."""


def load_ufw(node: Namespace) -> None:
    node.run("iptables-restore", text=(FOLDER / "ufw.v4").read_text())
    node.run("ip6tables-restore", text=(FOLDER / "ufw.v6").read_text())


def load_firewalld(node: Namespace) -> None:
    node.run("nft", "-f", "-", text=(FOLDER / "firewalld.nft").read_text())


OTHERS = pytest.mark.parametrize("load", [load_ufw, load_firewalld], ids=["ufw", "firewalld"])


def opens(pair: Pair, way: Way, port: int) -> bool:
    """Return whether the member can open a TCP connection; a rejection is a refusal."""
    try:
        with pair.connected(way, port) as ends:
            return bool(ends)
    except OSError:
        return False


def ours(pair: Pair) -> str:
    return pair.node.run("nft", "--stateless", "list", "table", "inet", TABLE, check=False)


@OTHERS
@WAYS
@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_both_must_permit_a_connection(
    pair: Pair, way: Way, load: Callable[[Namespace], None], first: str
) -> None:
    firewall = NftFirewall()
    if first == "theirs":
        load(pair.node)
    await firewall.apply(rules((SSH,)))
    if first == "ours":
        load(pair.node)
    assert opens(pair, way, 22)
    assert not opens(pair, way, 25)  # ours permits it
    await firewall.apply(rules((OTHER,)))
    assert not opens(pair, way, 22)  # theirs permits it
    assert await firewall.is_applied("h1-w")


@OTHERS
async def test_their_rule_for_established_connections_keeps_none_alive(
    pair: Pair, load: Callable[[Namespace], None]
) -> None:
    load(pair.node)
    firewall = NftFirewall()
    await firewall.apply(rules((SSH,)))
    with pair.connected(V4, 22) as (near, far):
        far.sendall(b"a")
        assert near.recv(9) == b"a"
        await firewall.apply(rules((OTHER,)))
        far.sendall(b"b")
        with pytest.raises(TimeoutError):
            near.recv(9)


@OTHERS
async def test_a_reload_of_theirs_leaves_ours(pair: Pair, load: Callable[[Namespace], None]) -> None:
    load(pair.node)
    firewall = NftFirewall()
    await firewall.apply(rules((SSH,)))
    before = ours(pair)
    pair.node.run("nft", "delete", "table", "inet", "firewalld", check=False)
    load(pair.node)
    assert ours(pair) == before
    assert await firewall.is_applied("h1-w")


async def test_a_flush_of_all_rules_is_seen_at_once(pair: Pair) -> None:
    """The start of Debian's nftables.service does that."""
    firewall = NftFirewall()
    await firewall.apply(rules((SSH,)))
    before = ours(pair)
    async with asyncio.TaskGroup() as group:
        edited = group.create_task(firewall.edited())
        while not edited.done():  # the first flush may come before it listens
            await asyncio.wait([edited], timeout=0.2)
            pair.node.run("nft", "flush", "ruleset")
    assert not await firewall.is_applied("h1-w")
    await firewall.apply(rules((SSH,)))
    assert ours(pair) == before
    assert await firewall.is_applied("h1-w")
    await firewall.remove("h1-w")


async def test_a_port_that_docker_publishes_is_judged_by_the_port_that_the_member_uses(pair: Pair) -> None:
    with Namespace("container") as container:
        connect(pair.node, container, ("172.17.0.1/16", f"{CONTAINER}/16"), names=("docker0", "eth0"))
        container.run("ip", "route", "add", "default", "via", "172.17.0.1")
        pair.node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        pair.node.run("iptables-restore", text=(FOLDER / "docker.v4").read_text())
        firewall = NftFirewall()
        published = PortRight(Protocol.TCP, 8080, 8080, FIRST)
        inside = PortRight(Protocol.TCP, 80, 80, FIRST)
        with container.entered():
            server = socket.create_server((CONTAINER, 80))
        with closing(server):
            for rights, passes in (((published,), True), ((inside,), False), ((published, inside), True)):
                # Leak protection forwards nothing that FORWARD_TO does not name.
                await firewall.apply(replace(rules(rights), protect=False))
                assert calls(pair, V4.node, 8080) is passes
                assert not calls(pair, CONTAINER, 80)


def calls(pair: Pair, address: str, port: int) -> bool:
    with pair.member.entered(), closing(socket.socket(socket.AF_INET)) as calling:
        calling.settimeout(0.3)
        try:
            calling.connect((address, port))
        except OSError:
            return False
        return True
