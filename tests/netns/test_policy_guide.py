"""The policies of docs/policy.md on real nodes, and the guide's commands.

Each policy is set by `policy set`. Then every pair of nodes is tried, in both directions.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import permutations, product
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from demo.echo import connect, echoes, serving
from demo.lab import Lab, Tools
from demo.node import LabNode
from tests.netns.policies import enforces
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.policy.document import parse_policy

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]
ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "policy.md"
OWNER_KEY: Final = ROOT / "docker" / "devchain" / "account0.key"
TAGS: Final = ("web", "db", "ops", "wiki")
NODES: Final = {"web-1": (1, "web"), "db-1": (1, "db"), "laptop": (2, "ops"), "wiki": (3, "wiki")}
"""The number of the account, and the tag."""
PING: Final = 0
PORTS: Final = (22, 80, 443, 5432)


class Flow(NamedTuple):
    """A connection; port 0 is a ping."""

    src: str
    dst: str
    port: int


PAIRS: Final = tuple(permutations(NODES, 2))
ALL: Final = frozenset(Flow(src, dst, port) for (src, dst), port in product(PAIRS, (PING, *PORTS)))
OWN: Final = {frozenset(("web-1", "db-1"))}
PERMITTED: Final = {
    "Everyone": ALL,
    "Servers by role": {
        *(Flow(src, "web-1", 443) for src in ("db-1", "laptop", "wiki")),
        Flow("web-1", "db-1", 5432),
        Flow("web-1", "db-1", PING),
    },
    "Owners see only their own": {flow for flow in ALL if frozenset((flow.src, flow.dst)) in OWN},
    "An operations team": {flow for flow in ALL if flow.src == "laptop" and flow.port in {22, PING}},
    "A public service": {flow for flow in ALL if flow.dst == "wiki" and flow.port == 443},
}
"""The connections that each policy permits, by its heading."""


def policies() -> dict[str, str]:
    """Return the text of each policy by its heading."""
    found = {}
    for section in re.split(r"^##+ ", GUIDE.read_text(), flags=re.MULTILINE):
        for text in re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            found[section.partition("\n")[0]] = text
    return found


def commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


class Guide:
    """The guide's four nodes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        for name in TAGS:
            lab.chain.send(calls.define_tag(name))
        for name, (owner, tag) in NODES.items():
            node = lab.add_node(name)
            node.owner = owner
            lab.mint(node)
            lab.set_endpoint(node)
            lab.chain.send(calls.set_tags(node.token, 1 << TAGS.index(tag)))
            node.start()
        for node in lab.nodes.values():
            node.wait_ready()
        self.folder = lab.run.home / "guide"
        self.folder.mkdir()

    def node(self, name: str) -> LabNode:
        return self.lab.nodes[name]

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run commands on web-1's machine, with the key of the registry's owner."""
        node = self.node("web-1")
        environment = dict(node.settings) | {"CONTRACT_PRIVATE_KEY_FILE": str(self.folder / "owner.key")}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{node.settings['PATH']}"}
        key = self.folder / "owner.key"
        key.touch(mode=0o600)
        key.write_text(OWNER_KEY.read_text())
        process = node.namespace.popen(
            *("bash", "-euo", "pipefail", "-c", f"cd {self.folder}\n{script}"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, problems = process.communicate(timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, said, problems)

    def write(self, text: str) -> None:
        (self.folder / "policy.json").write_text(text)

    def wait_enforced(self, text: str) -> None:
        for node in self.lab.nodes.values():
            wait_until(lambda node=node: enforces(node, text), f"{node.name} enforces it")  # type: ignore[misc]

    def works(self, flow: Flow, wait: float) -> bool:
        """Return whether a connection is possible, and the other end replies."""
        node, address = self.node(flow.src), self.node(flow.dst).address
        if flow.port == PING:
            return node.reaches(address, wait=wait)
        found = connect(node, address, flow.port, wait)
        if found is None:
            return False
        with found:
            return echoes(found)

    def works_soon(self, flow: Flow) -> bool:
        """Try again for some seconds: the session with a new peer may not be there yet."""
        return any(self.works(flow, 2.0) for _ in range(4))


@pytest.fixture(scope="module")
def guide(tools: Tools) -> Iterator[Guide]:
    with Lab(tools) as lab:
        lab.start_chain()
        yield Guide(lab)


@pytest.mark.parametrize("heading", PERMITTED)
def test_a_policy_permits_its_connections_and_no_others(guide: Guide, heading: str) -> None:
    text = policies()[heading]
    guide.write(text)
    done = guide.run("dstack-vpn policy set policy.json --yes")
    assert done.returncode == 0, done.stderr
    guide.wait_enforced(text)
    permitted = PERMITTED[heading]
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        for node in guide.lab.nodes.values():
            stack.enter_context(serving(node, node.address, *PORTS))
        opened = dict(zip(permitted, pool.map(guide.works_soon, permitted), strict=True))
        assert [flow for flow, works in opened.items() if not works] == []
        denied = sorted(ALL - permitted)
        found = pool.map(lambda flow: guide.works(flow, 0.4), denied)
        assert [flow for flow, works in zip(denied, found, strict=True) if works] == []


def test_the_guide_has_these_policies_each_with_tests() -> None:
    found = policies()
    assert found.keys() == PERMITTED.keys()
    for text in found.values():
        document = parse_policy(text)
        assert document.grants
        assert document.tests


def test_the_commands_of_the_guide(guide: Guide) -> None:
    text = policies()["Servers by role"]
    guide.write(text)
    change, look = commands()
    done = guide.run(change)
    assert done.returncode == 0, done.stderr
    assert "tests: 3 (all pass)" in done.stdout
    assert '"dst": ["tag:db"]' in done.stdout
    assert re.search(r"grant 2\b", done.stdout)
    guide.wait_enforced(text)
    seen = guide.run(look)
    assert seen.returncode == 0, seen.stderr
    decoder, documents, rest = json.JSONDecoder(), [], seen.stdout.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        documents.append(document)
        rest = rest[end:].strip()
    policy, decision, peer = documents
    assert [each["text"] for each in policy["in_force"]] == [text]
    assert decision["allowed"] is True
    assert peer["policy"] == {"inbound": ["tcp:443"], "outbound": ["tcp:5432", "icmp:*"]}
    denied = guide.run("dstack-vpn policy explain db-1 laptop tcp:22")
    assert denied.returncode == 1
