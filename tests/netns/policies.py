"""Nodes under a policy: its setting, echo servers, and connections."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from demo.echo import connect, echoes
from demo.lab import Lab
from demo.node import LabNode
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

WEB, DB, OPS = 1, 2, 4


class Network:
    """Three nodes: a is a web server, b a database, c has no tag."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.a, self.b, self.c = (lab.nodes[name] for name in "abc")
        for name in ("web", "db", "ops"):
            lab.chain.send(calls.define_tag(name))
        self.tag(self.a, WEB)
        self.tag(self.b, DB)

    def tag(self, node: LabNode, mask: int) -> None:
        self.lab.chain.send(calls.set_tags(node.token, mask))

    def set(self, *grants: dict[str, Any], tests: tuple[Any, ...] = ()) -> None:
        """Set a policy, and wait until every node enforces it."""
        set_text(self.lab, json.dumps({"grants": grants, "tests": tests}) if grants else "")


def set_text(lab: Lab, text: str, *nodes: LabNode) -> None:
    """Set a policy, or remove it by an empty text, and wait until the nodes enforce that."""
    lab.chain.send(calls.set_policy(text))
    for node in nodes or tuple(lab.nodes.values()):
        wait_until(partial(enforces, node, text), f"{node.name} enforces the policy")


def enforces(node: LabNode, text: str) -> bool:
    shown = node.get("/policy")
    texts = [each["text"] for each in shown["in_force"] or ()]
    return texts == ([text] if text else []) and bool(shown["enforced"])


def may_connect(node: LabNode, address: str, port: int) -> bool:
    found = connect(node, address, port)
    if found is None:
        return False
    with found:
        return echoes(found)


@contextmanager
def attempts(node: LabNode, address: str, port: int) -> Iterator[list[bool]]:
    """Try to connect again and again; collect the outcomes."""
    outcomes: list[bool] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            found = connect(node, address, port, wait=0.05)
            outcomes.append(found is not None)
            if found is not None:
                found.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield outcomes
    finally:
        ended.set()
        thread.join()
