"""Real daemons, WireGuard and chain: registry changes, outages, crashes, and packet loss."""

import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

import pytest
from demo.lab import Lab, Tools
from demo.node import INTERFACE, LabNode, new_key
from demo.ping import Ping
from tests.netns_support import wait_until

from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
BETWEEN = 0.1
"""Seconds between two pings, which fail immediately without a route."""
WATCHED = 200
"""The minimum number of packets of a ping to check."""


@contextmanager
def nothing_lost(ping: Ping) -> Iterator[None]:
    first = ping.mark()
    yield
    assert ping.between(first, ping.mark(at_least=first + WATCHED)).lost == 0


def three(lab: Lab) -> tuple[LabNode, LabNode, LabNode]:
    return lab.nodes["a"], lab.nodes["b"], lab.nodes["c"]


# -- the registry ----------------------------------------------------------------------------------


def test_every_node_has_the_others_and_nobody_else(standing_lab: Lab) -> None:
    lab = standing_lab
    for node in lab.nodes.values():
        others = {other.public_key: other for other in lab.others(node)}
        peers = node.device().peers
        assert peers.keys() == others.keys()
        for key, other in others.items():
            assert f"{other.address}/32" in peers[key].allowed_ips
            assert str(peers[key].endpoint) == other.endpoint
            assert peers[key].last_handshake > 0


def test_a_revoked_node_is_out_even_if_it_does_not_play_along(lab: Lab, ping: Ping) -> None:
    a, b, c = three(lab)
    c.signal(signal.SIGSTOP)
    with nothing_lost(ping):
        lab.lost(lab.revoke(c), c.public_key, (a, b))
    # The revoked node still has its key, peers and address, but the others drop its packets.
    assert c.device().peers.keys() == {a.public_key, b.public_key}
    assert not c.reaches(a.address)
    assert not c.reaches(b.address)
    assert not a.reaches(c.address)
    c.signal(signal.SIGCONT)


def test_fifty_revocations_and_grants_lose_no_packet_of_others(
    standing_lab: Lab, standing_ping: Ping
) -> None:
    lab, ping = standing_lab, standing_ping
    a, b, c = three(lab)
    with nothing_lost(ping):
        for _ in range(50):
            lab.lost(lab.revoke(c), c.public_key, (a, b))
            lab.gained(lab.mint(c), c.public_key, (a, b))
    lab.place(c, (a, b))
    a.wait_reaches(c.address)


def test_a_transfer_ends_the_old_key_and_waits_for_the_new(standing_lab: Lab, standing_ping: Ping) -> None:
    lab, ping = standing_lab, standing_ping
    a, b, c = three(lab)
    with nothing_lost(ping):
        c.signal(signal.SIGSTOP)
        lab.lost(lab.transfer(c, 5), c.public_key, (a, b))
        assert not c.reaches(a.address)
        c.signal(signal.SIGCONT)
        c.stop()
        c.key = new_key()
        lab.gained(lab.update_key(c), c.public_key, (a, b))
        lab.place(c, (a, b))
        c.start()
        c.wait_ready()
        c.wait_reaches(a.address)
        c.wait_reaches(b.address)


def test_a_rotated_key_replaces_the_old_one(standing_lab: Lab, standing_ping: Ping) -> None:
    lab, ping = standing_lab, standing_ping
    a, b, c = three(lab)
    old = c.public_key
    with nothing_lost(ping):
        c.key = new_key()
        mined = lab.update_key(c)
        lab.lost(mined, old, (a, b))
        lab.gained(mined, c.public_key, (a, b))
        wait_until(lambda: "another public key" in c.component("membership")[1], "c reports the other key")
        c.stop()
        c.start()
        c.wait_ready()
        c.wait_reaches(a.address)


def test_a_key_and_a_name_can_be_had_again(standing_lab: Lab) -> None:
    lab = standing_lab
    a, b, c = three(lab)
    token, address = c.token, c.address
    lab.lost(lab.revoke(c), c.public_key, (a, b))
    lab.gained(lab.mint(c), c.public_key, (a, b))
    assert c.token != token
    for node in (a, b):
        assert f"{c.address}/32" in node.device().peers[c.public_key].allowed_ips
        assert f"{address}/32" not in node.device().peers[c.public_key].allowed_ips
    lab.place(c, (a, b))


def test_a_reorg_takes_a_mint_and_a_revocation_back(standing_lab: Lab, standing_ping: Ping) -> None:
    lab, ping = standing_lab, standing_ping
    a, b, c = three(lab)
    key = derive(new_key())
    with nothing_lost(ping):
        lab.gained(lab.mint_key("e", key), key, (a, b, c))
        lab.lost(lab.chain.reorg(1), key, (a, b, c))
        lab.lost(lab.revoke(c), c.public_key, (a, b))
        lab.gained(lab.chain.reorg(1), c.public_key, (a, b))
        a.wait_reaches(c.address)


def test_two_nodes_that_are_granted_again_at_the_same_moment_reach_each_other_at_once(
    standing_lab: Lab,
) -> None:
    """Both nodes begin sessions. The daemon avoids the 5 s delay of simultaneous initiations."""
    lab = standing_lab
    a, b, c = three(lab)
    for _ in range(6):
        lab.revoke(a)
        lab.lost(lab.revoke(c), c.public_key, (b,))
        lab.gained(lab.chain.reorg(2), c.public_key, (b,))
        c.wait_reaches(a.address, timeout=3.0)


# -- outages ---------------------------------------------------------------------------------------


def wait_chain(lab: Lab, status: str) -> None:
    def agree() -> bool:
        return all(node.component("chain")[0] == status for node in lab.nodes.values())

    wait_until(agree, f"the chain is {status} everywhere", 40)


def test_tunnels_do_not_need_the_chain(lab: Lab, ping: Ping) -> None:
    a, b, c = three(lab)
    with nothing_lost(ping):
        lab.chain.stop()
        wait_chain(lab, "failed")
        assert all(node.get("/ready") == {"ready": True} for node in lab.nodes.values())
        for node, other in permutations(lab.nodes.values(), 2):
            assert node.reaches(other.address)
        lab.chain.start()
        mined = lab.revoke(c)  # seen only after reconnecting, as a gap
        lab.lost(mined, c.public_key, (a, b), timeout=40)
        wait_chain(lab, "ok")


def test_a_restart_without_the_chain_comes_up_from_what_was_stored(lab: Lab) -> None:
    a, b, c = three(lab)
    stored = Path(a.home / "state" / "registry.sqlite")
    wait_until(stored.exists, "a stores the registry")
    lab.chain.stop()
    a.stop()
    assert not a.reaches(b.address, wait=0.2)
    began = time.monotonic()
    a.start()
    a.wait_reaches(b.address)
    a.wait_reaches(c.address)
    assert time.monotonic() - began < 10
    wait_until(
        lambda: a.component("registry")[0] == "warning", "the warning; the API starts after the tunnel"
    )
    assert a.component("chain")[0] == "failed"
    lab.chain.start()
    wait_chain(lab, "ok")
    assert a.component("registry") == ("ok", "")


# -- crashes of the daemon and the device ----------------------------------------------------------


def test_a_killed_daemon_loses_no_packet_and_its_next_life_adopts(lab: Lab, ping: Ping) -> None:
    a, b, c = three(lab)
    device = a.namespace.pid_of("wireguard-go")
    with nothing_lost(ping):
        a.stop(signal.SIGKILL)
        mined = lab.revoke(c)
        lab.lost(mined, c.public_key, (b,))
        assert a.has_peer(c.public_key)
        a.start()
        a.wait_ready()
        lab.lost(mined, c.public_key, (a,))
    assert a.journal.find("device.adopted", 0) is not None
    assert a.namespace.pid_of("wireguard-go") == device


def states(node: LabNode) -> dict[str, str]:
    return {peer["node_id"]: peer["state"] for peer in node.get("/peers").get("peers", [])}


def test_a_peer_that_bytes_go_to_and_none_come_from_has_no_answer(standing_lab: Lab) -> None:
    lab = standing_lab
    a, _, c = three(lab)
    ping = Ping(a.namespace, c.address, lab.run.home / "ping-c.log", interval=0.5)
    try:
        wait_until(lambda: states(a) == {"b": "connected", "c": "connected"}, "both peers reply")
        device = c.namespace.pid_of("wireguard-go")
        assert device is not None
        c.stop(signal.SIGKILL)
        os.kill(device, signal.SIGKILL)
        wait_until(lambda: states(a).get("c") == "no answer", "a reports no reply from c", 15.0)
        assert states(a)["b"] == "connected"
        status = a.namespace.command(sys.executable, "-m", "dstack_vpn", "status", "--once")
        shown = subprocess.run(status, capture_output=True, text=True, check=True, timeout=30).stdout
        assert "no answer" in next(line for line in shown.splitlines() if line.startswith("c "))
        assert 'dstack_vpn_peers{state="no_answer",transport="udp"} 1.0' in a.fetch(
            "127.0.0.1", 8080, "/metrics"
        )
        c.start()
        wait_until(lambda: states(a).get("c") == "connected", "c replies again", 15.0)
        assert a.journal.find("peer.no_answer", 0) is not None
        assert a.journal.find("peer.answered", 0) is not None
    finally:
        ping.stop()


@pytest.mark.parametrize("adopted", [False, True])
def test_a_killed_wireguard_go_is_replaced(lab: Lab, adopted: bool) -> None:
    a, b, c = three(lab)
    if adopted:
        a.stop(signal.SIGKILL)
        a.start()
        a.wait_ready()
    device = a.namespace.pid_of("wireguard-go")
    assert device is not None
    os.kill(device, signal.SIGKILL)
    wait_until(lambda: a.namespace.pid_of("wireguard-go") not in {None, device}, "another process runs")
    a.wait_reaches(b.address)
    a.wait_reaches(c.address)
    b.wait_reaches(a.address)
    a.wait_ready()
    assert a.get("/stats")["device_restarts"] == 1


def reaches_or_rests(node: LabNode, address: str) -> bool:
    if node.reaches(address, wait=0.2):
        return True
    time.sleep(BETWEEN)
    return False


EDITS = {
    "key": ("wg", "set", INTERFACE, "private-key", "/dev/stdin"),
    "port": ("wg", "set", INTERFACE, "listen-port", "4242"),
    "peer": ("wg", "set", INTERFACE, "peer", "{a}", "remove"),
    "addresses": ("ip", "address", "flush", "dev", INTERFACE),
    "routes": ("ip", "route", "flush", "dev", INTERFACE),
    "state": ("ip", "link", "set", INTERFACE, "down"),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_others_do_to_the_interface_is_undone(standing_lab: Lab, what: str) -> None:
    lab = standing_lab
    a, _, c = three(lab)
    c.stop()
    c.start(SYNC_INTERVAL="1000")
    c.wait_ready()
    c.wait_reaches(a.address)
    mine = c.device()
    edit = [part.format(a=a.public_key) for part in EDITS[what]]
    c.namespace.run(*edit, text=base64.b64encode(new_key().reveal()).decode())
    # Less than the 15 s after which WireGuard itself detects the loss of a session.
    wait_until(lambda: reaches_or_rests(c, a.address), f"c reaches {a.address}", 14)
    a.wait_reaches(c.address, 1)

    def as_it_was() -> bool:
        found = c.device()
        same = (found.public_key, found.listen_port) == (mine.public_key, mine.listen_port)
        return same and found.peers.keys() == mine.peers.keys()

    wait_until(as_it_was, "the device is restored")


def test_sigterm_ends_in_order_and_takes_the_interface_away(lab: Lab) -> None:
    a = lab.nodes["a"]
    began = time.monotonic()
    assert a.stop() == 0
    assert time.monotonic() - began < 5
    assert INTERFACE not in a.namespace.run("ip", "link")
    assert "10.77" not in a.namespace.run("ip", "route", "show", "table", "all")
    assert a.namespace.pid_of("wireguard-go") is None


def test_keep_interface_leaves_the_tunnel_up(standing_lab: Lab, standing_ping: Ping) -> None:
    lab, ping = standing_lab, standing_ping
    a, b, _ = three(lab)
    a.stop(signal.SIGKILL)
    a.start(KEEP_INTERFACE="1")
    a.wait_ready()
    with nothing_lost(ping):
        assert a.stop() == 0
        assert a.reaches(b.address)
        assert b.reaches(a.address)
        a.start()
        a.wait_ready()


# -- leaks and secrets -----------------------------------------------------------------------------


@contextmanager
def leaks(lab: Lab, node: LabNode) -> Iterator[list[str]]:
    """Collect destinations in 10.77 and 10.78 that leave a node unencrypted, on its underlay."""
    seen: list[str] = []
    # ETH_P_ALL: all protocols.
    with lab.chain.namespace.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    with tap:
        tap.bind((f"to-{node.name}", 0))
        tap.setblocking(False)
        yield seen
        with contextlib.suppress(BlockingIOError):
            while frame := tap.recv(2048):
                kind, destination = struct.unpack_from("!12xH16x4s", frame.ljust(34, b"\0"))
                address = socket.inet_ntoa(destination)
                if kind == 0x0800 and address.startswith(("10.77.", "10.78.")):
                    seen.append(address)


def test_packets_for_a_gone_peer_leave_by_no_other_interface(lab: Lab) -> None:
    a, b, c = three(lab)
    # The default route makes a leak possible.
    a.namespace.run("ip", "route", "add", "default", "via", lab.chain.address)
    with leaks(lab, a) as seen:
        a.reaches("10.78.0.1", wait=0.2)
    assert set(seen) == {"10.78.0.1"}
    with leaks(lab, a) as seen:
        lab.lost(lab.revoke(c), c.public_key, (a, b))
        assert not a.reaches(c.address, wait=0.2)
        a.signal(signal.SIGSTOP)  # otherwise the daemon restores all before a packet can leak
        a.namespace.run("ip", "link", "del", INTERFACE)
        assert not a.reaches(b.address, wait=0.2)
        a.signal(signal.SIGCONT)
        a.wait_reaches(b.address)
    assert seen == []


def test_the_private_key_is_nowhere_to_be_seen(lab: Lab) -> None:
    a, b, c = three(lab)
    lab.lost(lab.revoke(c), c.public_key, (a, b))
    secret = a.key.reveal()
    needles = [base64.b64encode(secret).rstrip(b"="), secret.hex().encode(), secret]
    said = [a.log.read_bytes(), json.dumps([a.get(f"/{path}") for path in ("stats", "health")]).encode()]
    for pid in a.namespace.pids():
        with contextlib.suppress(OSError):
            said += [Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ")]
    assert len(said) > 4
    for text in said:
        assert not [needle for needle in needles if needle in text]
    wait_until(a.config.exists, "the wg-quick file is written")
    for path in a.home.rglob("*"):
        if path.is_file() and any(needle in path.read_bytes() for needle in needles):
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_key_file_that_others_can_read_is_refused(empty_lab: Lab) -> None:
    a = empty_lab.add_node("a")
    a.start(WIREGUARD_PRIVATE_KEY_FILE=str(a.home / "open.key"))
    assert a.daemon is not None
    assert a.daemon.wait(10) == 78
    (a.home / "open.key").write_bytes(a.key_file.read_bytes())
    (a.home / "open.key").chmod(0o644)
    a.start(WIREGUARD_PRIVATE_KEY_FILE=str(a.home / "open.key"))
    assert a.daemon.wait(10) == 78
    assert "can be read by others (mode 0644)" in a.log.read_text()
    assert INTERFACE not in a.namespace.run("ip", "link")


# -- other tests -----------------------------------------------------------------------------------


def test_wg_agrees_with_stats(standing_lab: Lab) -> None:
    lab = standing_lab
    a = lab.nodes["a"]
    rows = [row.split("\t") for row in a.namespace.run("wg", "show", INTERFACE, "dump").splitlines()]
    own, peers = rows[0], {row[0]: row for row in rows[1:]}
    stats = a.get("/stats")
    assert stats["public_key"] == own[1] == str(a.public_key)
    assert {peer["public_key"] for peer in stats["peers"]} == peers.keys()
    for peer in stats["peers"]:
        row = peers[peer["public_key"]]
        assert sorted(row[3].split(",")) == peer["addresses"]
        assert row[2] == peer["endpoint"]
    assert stats["addresses"] == [f"{a.address}/32", stats["addresses"][1]]


def test_a_plain_wireguard_client_can_join(lab: Lab, tools: Tools) -> None:
    a, b, c = three(lab)
    namespace, underlay = lab.add_namespace("d")
    key = new_key()
    public = derive(key)
    mined = lab.mint_key("d", public)
    lab.gained(mined, public, (a, b, c))
    address = f"10.77.0.{mined.minted + 1}"
    namespace.popen(tools.wireguard_go, "-f", INTERFACE, env={"LOG_LEVEL": "error"})
    wait_until(lambda: INTERFACE in namespace.run("ip", "link"), "the interface exists")
    secret = base64.b64encode(key.reveal()).decode()
    wait_until(lambda: namespace.run("wg", "show", "interfaces").strip() == INTERFACE, "its socket exists")
    peer = ("peer", str(a.public_key), "endpoint", a.endpoint, "allowed-ips", "10.77.0.0/16")
    namespace.run("wg", "set", INTERFACE, "private-key", "/dev/stdin", *peer, text=secret)
    for arguments in (
        ("address", "add", f"{address}/32", "dev", INTERFACE),
        ("link", "set", INTERFACE, "up"),
        ("route", "add", "10.77.0.0/16", "dev", INTERFACE),
    ):
        namespace.run("ip", *arguments)
    d = LabNode("d", namespace, underlay, lab.run.home / "d", 9, {}, key, mined.minted)
    d.wait_reaches(a.address)
    a.wait_reaches(address)
    lab.lost(lab.revoke(d), public, (a, b, c))
    assert not d.reaches(a.address)


def test_nothing_leads_out_of_a_namespace(standing_lab: Lab) -> None:
    lab = standing_lab
    a = lab.nodes["a"]
    routes = a.namespace.run("ip", "route").splitlines()
    assert not [route for route in routes if route.startswith("default")]
    with pytest.raises(AdminError):
        a.fetch("192.0.2.1", 80)
