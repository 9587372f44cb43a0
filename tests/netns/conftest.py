"""A whole network for each test: a chain, and daemons in namespaces of their own, as the demo has them."""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from demo.chain import real_anvil
from demo.lab import Lab, Tools
from demo.ping import Ping
from tests.anvil import anvil_path
from tests.netns_support import is_usable, wireguard_go


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The programs; skips loudly where something is missing."""
    anvil, wireguard = anvil_path(), wireguard_go()
    if not is_usable():
        pytest.skip("NO ROOT, NAMESPACES OR TUN: the end-to-end tests are SKIPPED; run them as root")
    if anvil is None or wireguard is None:
        pytest.skip("NO ANVIL OR WIREGUARD-GO: the end-to-end tests are SKIPPED; 'make test' installs them")
    return Tools(real_anvil(Path(anvil)), Path(wireguard))


@pytest.fixture
def empty_lab(tools: Tools) -> Iterator[Lab]:
    """A chain with the registry on it."""
    with Lab(tools) as lab:
        lab.start_chain()
        yield lab


@pytest.fixture
def lab(empty_lab: Lab) -> Lab:
    """Three nodes with tunnels between all of them."""
    lab = empty_lab
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
def ping(lab: Lab) -> Iterator[Ping]:
    """A ping from a to b, 200 times a second."""
    ping = Ping(lab.nodes["a"].namespace, lab.nodes["b"].address, lab.run.home / "ping.log")
    yield ping
    ping.stop()
