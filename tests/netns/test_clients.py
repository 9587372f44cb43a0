"""Plain clients end to end: real daemons, and wg-quick with the printed configuration."""

import signal
from functools import partial

import pytest
from demo.echo import connect, echoes, serving
from demo.lab import Lab
from demo.node import LabNode
from demo.ping import Ping
from tests.netns.clients import Phone, allowed_ips, check_of, forward, ipv6_of, wait_behind, with_gateway
from tests.netns.policies import may_connect, set_text
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]


def has_no_client(node: LabNode, gateway: LabNode) -> bool:
    """Return whether the gateway's peer on a node has the gateway's addresses alone."""
    return allowed_ips(node, gateway.public_key) == {gateway.address, ipv6_of(gateway)}


def test_a_phone_joins_roams_and_is_revoked(empty_lab: Lab) -> None:
    lab = empty_lab
    gateway, a, b = with_gateway(lab)
    phone = Phone(lab, "phone-1")
    phone.join("gw")
    for node in (a, b):
        wait_behind(node, gateway, phone)
        assert not node.has_peer(phone.public_key)
    ipv4, ipv6 = phone.addresses

    # It reaches every member by both protocols and by name, and is reached by them.
    for node in (gateway, a, b):
        phone.wait_reaches(node.address, ipv6_of(node))
        assert phone.resolve(f"{node.name}.vpn.internal") == {node.address, ipv6_of(node)}
        assert phone.resolve(node.name) == {node.address, ipv6_of(node)}
        node.wait_reaches(ipv4)
        node.wait_reaches(ipv6)
    assert a.namespace.run("dig", f"@{a.address}", "+short", "phone-1.vpn.internal").strip() == ipv4

    # It roams: the connection and the session go on.
    before = gateway.device().peers[phone.public_key]
    with serving(a, a.address, 7000):
        connection = connect(phone.node, a.address, 7000)
        assert connection is not None
        with connection:
            assert echoes(connection)
            phone.roam("192.168.77.200")
            assert echoes(connection, 5.0)
    wait_until(
        lambda: str(gateway.device().peers[phone.public_key].endpoint).startswith("192.168.77.200:"),
        "the gateway has the phone's new address",
    )
    assert gateway.device().peers[phone.public_key].last_handshake == before.last_handshake

    # Its gateway is killed and starts again. Nothing is done on the phone.
    gateway.stop(signal.SIGKILL)
    gateway.start()
    gateway.wait_ready()
    a.wait_reaches(ipv4)
    phone.wait_reaches(a.address)
    gateway.stop()
    gateway.start()
    gateway.wait_ready()
    a.wait_reaches(ipv4, 30)
    phone.wait_reaches(a.address)

    # It is revoked.
    ping = Ping(phone.namespace, a.address, lab.run.home / "ping.log")
    other = Ping(a.namespace, gateway.address, lab.run.home / "other.log")
    try:
        first = other.mark()
        ping.mark()
        mined = lab.chain.send(calls.revoke(phone.token))
        change = lab.lost(mined, phone.public_key, (gateway,))
        assert change.seconds < 1
        for node in (a, b):
            wait_until(
                partial(has_no_client, node, gateway),
                f"{node.name} has no address of the phone",
            )
        assert not phone.reaches(a.address)
        assert not phone.reaches(gateway.address)
        assert not a.reaches(ipv4)
        assert other.between(first, other.mark()).lost == 0, "another tunnel lost a packet"
    finally:
        ping.stop()
        other.stop()


def test_a_policy_decides_about_a_clients_own_addresses(empty_lab: Lab) -> None:
    lab = empty_lab
    gateway, a, b = with_gateway(lab)
    for name in ("phone", "db"):
        lab.chain.send(calls.define_tag(name))
    lab.chain.send(calls.set_tags(b.token, 4))
    phones = [Phone(lab, name) for name in ("phone-1", "phone-2")]
    first, second = phones
    for phone in phones:
        phone.join("gw")
        phone.wait_reaches(gateway.address, a.address, b.address)
    first.wait_reaches(second.addresses[0], second.addresses[1])

    # One phone has the tag that may use the database. The gateway itself may not.
    grant = '{"src": ["tag:phone"], "dst": ["tag:db"], "ip": ["tcp:7000", "icmp:*"]}'
    reverse = '{"src": ["tag:db"], "dst": ["node:phone-2"], "ip": ["tcp:7001"]}'
    lab.chain.send(calls.set_tags(first.token, 2))
    set_text(lab, f'{{"grants": [{grant}, {reverse}]}}')
    first.wait_reaches(b.address, ipv6_of(b))
    for source, target in ((first, a.address), (first, gateway.address), (second, a.address)):
        assert not source.reaches(target)
    for address in second.addresses:
        assert not first.reaches(address)
    assert not second.reaches(b.address)
    with serving(b, b.address, 7000, 7001), serving(first.node, first.addresses[0], 7000, 7001):
        assert may_connect(first.node, b.address, 7000)
        assert not may_connect(first.node, b.address, 7001)
        assert connect(b, first.addresses[0], 7000, 0.5) is None, "the gateway enforces the client's policy"
    with serving(second.node, second.addresses[0], 7000, 7001):
        wait_until(lambda: may_connect(b, second.addresses[0], 7001), "b reaches phone-2")
        assert connect(b, second.addresses[0], 7000, 0.5) is None
    denied = gateway.get("/policy")["denied"]["packets"]
    assert denied > 0

    # A right that is withdrawn ends a connection that runs.
    with serving(b, b.address, 7000):
        connection = connect(first.node, b.address, 7000, 2.0)
        assert connection is not None
        with connection:
            assert echoes(connection)
            lab.chain.send(calls.set_tags(first.token, 0))
            wait_until(lambda: not first.reaches(b.address, 0.3), "phone-1 has no rights any more")
            assert not echoes(connection)

    # Two clients of one gateway talk as the policy says.
    both = '{"src": ["node:phone-1"], "dst": ["node:phone-2"], "ip": ["icmp:*"]}'
    set_text(lab, f'{{"grants": [{both}]}}')
    first.wait_reaches(*second.addresses)
    assert not second.reaches(first.addresses[0])
    set_text(lab, "")
    second.wait_reaches(*first.addresses)


def test_a_gateway_that_does_not_forward_reports_it(empty_lab: Lab) -> None:
    lab = empty_lab
    gateway, a, _ = with_gateway(lab)
    forward(gateway, on=False)
    phone = Phone(lab, "phone-1")
    phone.join("gw")
    phone.wait_reaches(gateway.address)
    wait_until(lambda: gateway.component("gateway")[0] == "failed", "the gateway reports it", 20)
    assert "IP forwarding is off: set net.ipv4.ip_forward=1" in gateway.component("gateway")[1]
    assert not phone.reaches(a.address)
    assert a.reaches(gateway.address)
    assert check_of(gateway, "clients")["status"] == "fail"
    forward(gateway)
    assert check_of(gateway, "clients")["found"] == "this machine forwards for its clients (1)"
    phone.wait_reaches(a.address)
    wait_until(lambda: gateway.component("gateway") == ("", ""), "the gateway forwards", 20)
