"""A network behind a gateway, end to end: real daemons, and a plain client that sends to it."""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Final

import pytest
from demo.echo import echoes
from demo.lab import Lab, Tools
from demo.ping import Ping
from tests.netns.clients import Phone, check_of, forward, ipv6_of
from tests.netns.networks import (
    HOST,
    OFFICE,
    OTHER,
    PUBLIC,
    ROUTER,
    Office,
    Stream,
    dial,
    join,
    set_routes,
    source_seen,
)
from tests.netns.policies import set_text
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(120)]
EXIT: Final = ("0.0.0.0/0", "::/0")


class World:
    """A gateway with an office behind it, its client, and a member that uses the routes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.chain.send(calls.define_tag("gateway"))
        self.gateway = lab.add_node("gw")
        lab.mint(self.gateway)
        lab.set_endpoint(self.gateway)
        lab.chain.send(calls.set_tags(self.gateway.token, 1))
        forward(self.gateway)
        self.office = Office(lab, self.gateway)
        self.member = lab.add_node("a")
        lab.mint(self.member)
        lab.set_endpoint(self.member)
        self.gateway.start()
        self.member.start(ACCEPT_ROUTES="all")
        self.gateway.wait_ready()
        self.member.wait_ready()
        self.phone = Phone(lab, "phone-1")
        join(self.phone, "gw")
        self.phone.wait_reaches(self.gateway.address, ipv6_of(self.gateway))

    def restart(self, **settings: str) -> None:
        self.gateway.stop()
        self.gateway.start(**settings)
        self.gateway.wait_ready()
        self.phone.wait_reaches(self.gateway.address)

    def wait_route(self, *addresses: str) -> None:
        for address in addresses:
            self.phone.wait_reaches(address)


@pytest.fixture(scope="module")
def shared(tools: Tools) -> Iterator[World]:
    with Lab(tools) as lab:
        lab.start_chain()
        yield World(lab)


@pytest.fixture
def world(shared: World) -> World:
    """The shared world without a policy, with the route to the office."""
    set_text(shared.lab, "")
    set_routes(shared.lab, shared.gateway, OFFICE)
    shared.wait_route(*HOST)
    return shared


def test_members_reach_the_routes_and_nothing_else(shared: World) -> None:
    lab, phone, office = shared.lab, shared.phone, shared.office
    assert not any(phone.reaches(address, 0.3) for address in HOST), "there is no route yet"
    set_routes(lab, shared.gateway, OFFICE)
    with office.serving(7000):
        for address, router in zip(HOST, ROUTER, strict=True):
            phone.wait_reaches(address)
            assert source_seen(phone, address, 7000) == router, "the source is translated"
            shared.member.wait_reaches(address)
            assert source_seen(shared.member, address, 7000) == router
        for address in (*OTHER, *PUBLIC, *ROUTER):
            assert not phone.reaches(address, 0.3), address
            assert source_seen(phone, address, 7000, 0.3) is None
        # The office opens no connection into the VPN.
        office.route_back()
        for address in phone.addresses:
            assert "0 received" in office.namespace.run(
                *("ping", "-n", "-c", "1", "-W", "0.3", address), check=False
            )
        # A route that is withdrawn ends what runs.
        stream = Stream(phone, office, 7001)
        with closing(stream):
            assert stream.passes()
            set_routes(lab, shared.gateway, OFFICE[1:])
            wait_until(lambda: not phone.reaches(HOST[0], 0.2), "the route is gone")
            assert not stream.passes()
        assert phone.reaches(HOST[1])


def granting(*ports: str, source: str = "node:phone-1") -> str:
    """Return a policy that lets the phone use ports of a part of the office."""
    grant = {"src": [source], "dst": ["192.168.7.0/29", "fd07::5/128"], "ip": ports}
    return json.dumps({"grants": [grant]})


def test_a_policy_decides_about_networks(world: World) -> None:
    lab, phone, office = world.lab, world.phone, world.office
    set_text(lab, granting("tcp:7000", "udp:7001"))
    stream = Stream(phone, office, 7001)
    with office.serving(7000, 7002), closing(stream):
        for address in HOST:
            found = dial(phone, address, 7000)
            assert found is not None
            found[0].close()
            assert source_seen(phone, address, 7002, 0.3) is None
            assert not phone.reaches(address, 0.3), "no grant for ICMP"
        office.namespace.run("ip", "address", "replace", "192.168.7.100/32", "dev", "lan0")
        assert source_seen(phone, "192.168.7.100", 7000, 0.3) is None, "outside of the grant"
        assert not phone.reaches(world.gateway.address, 0.3), "a network is not its gateway"
        assert not world.gateway.has_peer(world.member.public_key), "it may use nothing here"
        wait_until(
            lambda: world.gateway.get("/policy")["denied"]["packets"], "the denied packets are counted"
        )
        # A right that is withdrawn ends what runs, in both directions.
        found = dial(phone, HOST[0], 7000)
        assert found is not None
        with found[0] as connection:
            assert echoes(connection)
            assert stream.passes()
            set_text(lab, granting("udp:7001"))
            assert stream.passes()
            wait_until(lambda: source_seen(phone, HOST[0], 7000, 0.2) is None, "the right is gone")
            assert not echoes(connection, 0.5)
            set_text(lab, '{"grants": [{"src": ["tag:gateway"], "dst": ["*"], "ip": ["*"]}]}')
            wait_until(lambda: not stream.passes(), "the right is gone")
            set_text(lab, granting("tcp:7000"))
            assert not stream.passes()
            # TCP sends again the byte that was denied meanwhile.
            connection.settimeout(10)
            assert connection.recv(1) == b"x"
        # A member is a peer as soon as it may use a network, and enforces the policy itself, too.
        set_text(lab, granting("tcp:7000", source="node:a"))
        for address in HOST:
            wait_until(partial(source_seen, world.member, address, 7000, 0.3), "the member has the right")
            assert source_seen(world.member, address, 7002, 0.3) is None
        assert world.gateway.has_peer(world.member.public_key)
        assert not world.member.reaches(world.gateway.address, wait=0.3)
        assert source_seen(phone, HOST[0], 7000, 0.3) is None


def test_a_change_of_zones_loses_nothing_that_stays_permitted(world: World) -> None:
    """The zones change with each policy and each route; two members' rights stay."""
    lab, phone, gateway = world.lab, world.phone, world.gateway
    stays = {"src": ["node:phone-1"], "dst": [f"{HOST[0]}/32"], "ip": ["icmp:*"]}
    other = {"src": ["node:a"], "dst": ["192.168.7.0/25", "fd07::/80"], "ip": ["tcp:22"]}
    texts = [json.dumps({"grants": grants}) for grants in ([stays], [other, stays])]
    set_text(lab, texts[0])
    phone.wait_reaches(HOST[0])
    allowed = Ping(phone.namespace, HOST[0], lab.run.home / "allowed.log")
    denied = Ping(phone.namespace, HOST[1], lab.run.home / "denied.log")
    try:
        first = allowed.mark()
        for turn in range(8):
            set_text(lab, texts[turn % 2], gateway)
            set_routes(lab, gateway, OFFICE if turn % 4 < 2 else ("10.9.0.0/24", *OFFICE))
        assert allowed.between(first, allowed.mark()).lost == 0
        assert "bytes from" not in (lab.run.home / "denied.log").read_text()
    finally:
        allowed.stop()
        denied.stop()


def test_an_exit_forwards_to_the_internet_alone(world: World) -> None:
    lab, phone, office = world.lab, world.phone, world.office
    set_routes(lab, world.gateway, EXIT)
    with office.serving(7000):
        for address, router in zip(PUBLIC, ROUTER, strict=True):
            phone.wait_reaches(address)
            assert source_seen(phone, address, 7000) == router
        assert not any(phone.reaches(address, 0.3) for address in (*HOST, *OTHER, *ROUTER))
        set_text(lab, '{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}')
        assert not any(phone.reaches(address, 0.3) for address in PUBLIC)
        set_text(lab, '{"grants": [{"src": ["*"], "dst": ["autogroup:internet"], "ip": ["tcp:7000"]}]}')
        for address in PUBLIC:
            assert source_seen(phone, address, 7000) is not None
            assert not phone.reaches(address, 0.3)


def test_networks_see_the_members_without_translation(world: World) -> None:
    lab, phone, office = world.lab, world.phone, world.office
    office.route_back()
    world.restart(ROUTE_SNAT="0")
    try:
        set_routes(lab, world.gateway, (EXIT[0], OFFICE[1]))
        world.wait_route(PUBLIC[0], HOST[1])
        with office.serving(7000):
            assert source_seen(phone, PUBLIC[0], 7000) == ROUTER[0], "an exit always translates"
            assert source_seen(phone, HOST[1], 7000) == phone.addresses[1]
    finally:
        world.restart()


def test_what_keeps_a_gateway_from_forwarding_is_reported(world: World) -> None:
    gateway = world.gateway
    forward(gateway, on=False)
    try:
        wait_until(lambda: gateway.component("gateway")[0] == "failed", "the gateway reports it", 20)
        assert "IP forwarding is off" in gateway.component("gateway")[1]
        assert check_of(gateway, "networks")["status"] == "fail"
    finally:
        forward(gateway)
    wait_until(lambda: gateway.component("gateway") == ("", ""), "the gateway forwards", 20)
    set_routes(world.lab, gateway, ("10.77.9.0/24", *OFFICE))
    wait_until(partial(gateway.component, "networks"), "the route is refused")
    wait_until(lambda: gateway.component("networks")[0] == "warning", "the route is refused")
    assert "10.77.9.0/24: it overlaps the VPN's own prefix" in gateway.component("networks")[1]
    assert all(world.phone.reaches(address) for address in HOST)
    set_routes(world.lab, gateway, ("10.9.0.0/24", *OFFICE))
    assert check_of(gateway, "networks")["found"] == "this machine has no route to 10.9.0.0/24"
