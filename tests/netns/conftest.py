"""A network for each test: a chain and daemons in separate namespaces, as in the demo."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

import pytest
from demo.chain import real_anvil
from demo.lab import Lab, Tools
from demo.ping import Ping
from tests.anvil import anvil_path
from tests.netns_support import is_usable, wireguard_go

from dstack_vpn.errors import DstackVpnError


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Return the programs; skip the test if one is missing."""
    anvil, wireguard = anvil_path(), wireguard_go()
    if not is_usable():
        pytest.skip("NO ROOT, NAMESPACES OR TUN: the end-to-end tests are SKIPPED; run them as root")
    if anvil is None or wireguard is None:
        pytest.skip("NO ANVIL OR WIREGUARD-GO: the end-to-end tests are SKIPPED; 'make test' installs them")
    return Tools(real_anvil(Path(anvil)), Path(wireguard))


@pytest.fixture
def empty_lab(tools: Tools) -> Iterator[Lab]:
    """Yield a lab with a chain and its registry, without nodes."""
    with Lab(tools) as lab:
        lab.start_chain()
        yield lab


def connect_three(lab: Lab) -> Lab:
    """Add three nodes with tunnels between all of them."""
    for name in "abc":
        node = lab.add_node(name)
        lab.mint(node)
        lab.set_endpoint(node)
    for node in lab.nodes.values():
        node.start()
    for node in lab.nodes.values():
        node.wait_ready()
    for node, other in permutations(lab.nodes.values(), 2):
        node.wait_reaches(other.address)
    return lab


@pytest.fixture
def lab(empty_lab: Lab) -> Lab:
    """Return a lab of three nodes with tunnels between all of them."""
    return connect_three(empty_lab)


class Standing:
    """A lab of three nodes that several tests share, and leave unchanged."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._lab: Lab | None = None

    def lab(self) -> Lab:
        """Return the lab, or a new one if the previous test left it changed."""
        if self._lab is None or not is_whole(self._lab):
            self.close()
            self._lab = Lab(self._tools)
            self._lab.start_chain()
            connect_three(self._lab)
        return self._lab

    def close(self) -> None:
        if self._lab is not None:
            self._lab.close()


def is_whole(lab: Lab) -> bool:
    """Return whether each node runs, is ready, and has and reaches the others as peers."""
    keys = {node.public_key for node in lab.nodes.values()}
    try:
        for node in lab.nodes.values():
            if node.daemon is None or node.device().peers.keys() != keys - {node.public_key}:
                return False
            node.wait_ready(3.0)
        for node, other in permutations(lab.nodes.values(), 2):
            node.wait_reaches(other.address, 3.0)
    except DstackVpnError:
        return False
    return True


@pytest.fixture(scope="module")
def standing(tools: Tools) -> Iterator[Standing]:
    made = Standing(tools)
    yield made
    made.close()


@pytest.fixture
def standing_lab(standing: Standing) -> Lab:
    """Return a shared lab of three nodes, for tests that leave it unchanged."""
    return standing.lab()


@contextmanager
def pinging(lab: Lab) -> Iterator[Ping]:
    """Ping b from a, 200 times a second."""
    ping = Ping(lab.nodes["a"].namespace, lab.nodes["b"].address, lab.run.home / "ping.log")
    try:
        yield ping
    finally:
        ping.stop()


@pytest.fixture
def ping(lab: Lab) -> Iterator[Ping]:
    with pinging(lab) as ping:
        yield ping


@pytest.fixture
def standing_ping(standing_lab: Lab) -> Iterator[Ping]:
    with pinging(standing_lab) as ping:
        yield ping
