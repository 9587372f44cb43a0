"""The acts of the demo: changes of the registry, and their effects on three real daemons."""

import contextlib
import itertools
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from demo.echo import connect, echoes, start_echo
from demo.lab import Change, Lab
from demo.namespaces import wait_until
from demo.node import LabNode, new_key
from demo.story import Act, StepFailedError, Story
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError

PAGE: Final = "Hello from node a, over the tunnel."
_WEB_PORT: Final = 8000
_DATABASE: Final = 5432
_SHELL: Final = 22
_WEB, _DB, _OPS = 1, 2, 4
_POLICY: Final = """\
{"grants": [
  {"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
  {"src": ["tag:ops"], "dst": ["tag:db"], "ip": ["tcp:22"]},
  {"src": ["*"], "dst": ["*"], "ip": ["icmp:*"]}
]}
"""
_NEW_OWNER: Final = 4
"""The account that c's token is transferred to."""
_OUTAGE: Final = 1.0
"""Seconds of the chain outage, without anvil's start."""


class Acts:
    """Run all acts in a lab and report them to a story."""

    COUNT: Final = 9

    def __init__(self, lab: Lab, story: Story) -> None:
        self._lab, self._story = lab, story

    def all(self) -> list[Act]:
        """Return the acts in their order."""
        return [
            ("A chain, a contract, three nodes", self.set_up),
            ("The tunnels come up", self.come_up),
            ("b fetches a page from a over the tunnel", self.fetch),
            ("c is revoked", self.revoke),
            ("c's token is transferred", self.transfer),
            ("c's key is rotated", self.rotate),
            ("The chain stops and comes back", self.outage),
            ("A reorg takes a mint back", self.reorg),
            ("A policy: a tag is withdrawn, and one port closes", self.policy),
        ]

    # -- the acts ----------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Create the namespaces, the chain, the registry and three tokens."""
        with self._story.timed("anvil runs, the registry is deployed"):
            self._lab.start_chain()
        with self._story.timed("namespaces, keys, tokens and endpoints for three"):
            for name in "abc":
                node = self._lab.add_node(name)
                self._lab.mint(node)
                self._lab.set_endpoint(node)
        self._story.note(f"the registry is {self._lab.chain.contract}")

    def come_up(self) -> None:
        """Start three daemons, and wait for their tunnels."""
        with self._story.timed("three daemons run and are healthy", headline=True):
            for node in self._nodes:
                node.start()
            for node in self._nodes:
                node.wait_ready()
        with self._story.timed("all nodes reach each other by ping", headline=True):
            for node, other in itertools.permutations(self._nodes, 2):
                node.wait_reaches(other.address)
        addresses = ", ".join(f"{node.name} {node.address}" for node in self._nodes)
        self._story.note(f"their addresses in the tunnel: {addresses}")
        self._story.start_ping(self._a.namespace, self._b.address, self._lab.run.home / "ping.log")

    def fetch(self) -> None:
        """Serve a page on a tunnel address."""
        a = self._a
        with self._story.timed(f"a serves http://{a.address}:{_WEB_PORT}/"):
            self._serve(a)
        with self._story.timed("b fetched it", headline=True):
            page = self._b.fetch(a.address, _WEB_PORT)
        self._story.expect(PAGE in page, "the page that b fetched is not a's")
        self._story.note(f"b got: {page.strip()}")

    def revoke(self) -> None:
        """Revoke a member whose daemon is frozen; the other tunnels are not disturbed."""
        lab, c = self._lab, self._c
        c.signal(signal.SIGSTOP)
        self._story.note("c's daemon is frozen: only the others can remove c")
        self._story.change(
            "c is removed from a and b",
            lambda: lab.lost(lab.revoke(c), c.public_key, self._pair),
        )
        self._silent(c)
        c.signal(signal.SIGCONT)

    def transfer(self) -> None:
        """Transfer a token: the old key is removed at once; the new owner sets another."""
        lab, story, c = self._lab, self._story, self._c
        story.change(
            "c is a peer of a and b, with another token",
            lambda: lab.gained(lab.mint(c), c.public_key, self._pair),
        )
        lab.place(c, self._pair)
        with story.timed("a reaches c again"):
            self._a.wait_reaches(c.address)
        story.change(
            "the old owner's key is removed from a and b",
            lambda: lab.lost(lab.transfer(c, _NEW_OWNER), c.public_key, self._pair),
        )
        self._silent(c)
        c.key = new_key()
        story.change(
            "the new owner's key is a peer of a and b",
            lambda: lab.gained(lab.update_key(c), c.public_key, self._pair),
        )
        lab.place(c, self._pair)
        self._restart_c("c's daemon runs with it and reaches a")

    def rotate(self) -> None:
        """Replace a key: the old one is removed and the new one added in one block."""
        lab, c, old = self._lab, self._c, self._c.public_key
        c.key = new_key()
        mined = lab.update_key(c)
        self._story.change("c's old key is removed from a and b", lambda: lab.lost(mined, old, self._pair))
        self._story.change(
            "c's new key is a peer of a and b", lambda: lab.gained(mined, c.public_key, self._pair)
        )
        self._restart_c("c's daemon runs with it and reaches a")

    def outage(self) -> None:
        """Stop the chain: existing tunnels keep working."""
        lab, story = self._lab, self._story
        lab.chain.stop()
        with story.timed("anvil is stopped: the health of all three nodes reports it", headline=True):
            self._wait_chain("failed")
        story.note(f"a: {self._a.component('chain')[1]}")
        with story.timed("all tunnels work without it"):
            for node, other in itertools.permutations(self._nodes, 2):
                story.expect(node.reaches(other.address), f"{node.name} lost {other.name} with the chain")
        story.waiting("the chain is down for a while")
        time.sleep(_OUTAGE)
        with story.timed("anvil is back: all three follow it again", headline=True):
            lab.chain.start()
            self._wait_chain("ok")
        key = derive(new_key())
        story.change("d, minted now, is a peer of a, b and c", lambda: self._granted("d", key))

    def reorg(self) -> None:
        """Replace a block by a reorg, and with it the mint that it had."""
        lab, story, key = self._lab, self._story, derive(new_key())
        story.change("e, minted now, is a peer of a, b and c", lambda: self._granted("e", key))
        story.change(
            "a reorg replaces the block: e is removed",
            lambda: lab.lost(lab.chain.reorg(1), key, self._nodes),
        )
        for node, other in itertools.permutations(self._nodes, 2):
            story.expect(node.has_peer(other.public_key), f"the reorg took {other.name} from {node.name}")

    def policy(self) -> None:
        """Withdraw a tag: one port closes, and a connection to another port goes on."""
        lab, story, a, b, c = self._lab, self._story, self._a, self._b, self._c
        for name in ("web", "db", "ops"):
            lab.chain.send(calls.define_tag(name))
        lab.chain.send(calls.set_tags(a.token, _WEB | _OPS))
        lab.chain.send(calls.set_tags(b.token, _DB))
        start_echo(b, b.address, _DATABASE, _SHELL)
        story.note("a has the tags web and ops, b has db; b serves tcp:5432 and tcp:22")
        story.change("a policy is enforced by a, b and c", lambda: lab.set_policy(_POLICY, (a, b, c)))
        with story.timed("c connects to tcp:5432 and tcp:22 of b: denied"):
            self._closed(c, _DATABASE, _SHELL)
        with self._connected(a, _DATABASE) as database, self._connected(a, _SHELL) as shell:
            story.expect(echoes(database) and echoes(shell), "b does not reply to a")
            story.note("a is connected to both ports")
            story.change("a loses the tag web: a and b enforce that", lambda: lab.set_tags(a, _OPS, (a, b)))
            story.expect(not echoes(database, 0.3), "the connection to tcp:5432 goes on")
            story.expect(echoes(shell), "the connection to tcp:22 is cut")
            story.note("its connection to tcp:5432 is cut, and that to tcp:22 goes on")
        with story.timed("a connects to tcp:5432 again: denied"):
            self._closed(a, _DATABASE)
        with self._connected(a, _SHELL):
            story.note("a connects to tcp:22 again: permitted")

    # -- parts -------------------------------------------------------------------------------------

    @property
    def _nodes(self) -> tuple[LabNode, ...]:
        return tuple(self._lab.nodes.values())

    @property
    def _a(self) -> LabNode:
        return self._lab.nodes["a"]

    @property
    def _b(self) -> LabNode:
        return self._lab.nodes["b"]

    @property
    def _c(self) -> LabNode:
        return self._lab.nodes["c"]

    @property
    def _pair(self) -> tuple[LabNode, ...]:
        return self._a, self._b

    def _silent(self, node: LabNode) -> None:
        with self._story.timed(f"{node.name} pings a and b: no answer"):
            for other in self._pair:
                reached = node.reaches(other.address, wait=0.3)
                self._story.expect(not reached, f"{node.name} still reaches {other.name}")

    def _closed(self, node: LabNode, *ports: int) -> None:
        for port in ports:
            found = connect(node, self._b.address, port, 0.3)
            if found is not None:
                found.close()
            self._story.expect(found is None, f"{node.name} can connect to tcp:{port} of b")

    @contextlib.contextmanager
    def _connected(self, node: LabNode, port: int) -> Iterator[socket.socket]:
        found = connect(node, self._b.address, port)
        if found is None:
            raise StepFailedError(f"{node.name} can't connect to tcp:{port} of b")
        with found:
            yield found

    def _restart_c(self, what: str) -> None:
        with self._story.timed(what):
            self._c.stop()
            self._c.start()
            self._c.wait_ready()
            self._c.wait_reaches(self._a.address)

    def _granted(self, name: str, key: PublicKey) -> Change:
        return self._lab.gained(self._lab.mint_key(name, key), key, self._nodes)

    def _wait_chain(self, status: str) -> None:
        def agree() -> bool:
            return all(node.component("chain")[0] == status for node in self._nodes)

        wait_until(agree, f"the chain is {status} in every node's health", 30.0)

    def _serve(self, node: LabNode) -> None:
        site = node.home / "www"
        site.mkdir()
        (site / "index.html").write_text(f"<h1>{PAGE}</h1>\n")
        with (node.home / "www.log").open("wb") as log:
            node.namespace.popen(
                *(sys.executable, "-m", "http.server", "--bind", node.address),
                *("--directory", site, str(_WEB_PORT)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def answers() -> bool:
            with contextlib.suppress(AdminError):
                return PAGE in node.fetch(node.address, _WEB_PORT)
            return False

        wait_until(answers, "a's web server answers")
