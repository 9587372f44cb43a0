"""The cost of a member's attack: packets of a bystander, and processor time of the attacked node.

The network has three real nodes with wireguard-go. c attacks a for 20 s. During this time, b pings
a through its tunnel every 10 ms, and this machine queries a's health over loopback four times per
second. A block arrives every 0.1 s in each case, so that the difference to the case `honest` is the
cost of the attack. Each round has each case once, each on a new network.

The attacker's processes share the cores with everything else, although they would run on another
machine. They therefore have the lowest priority, except its WireGuard.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any, Final

import dns.message
from demo.chain import real_anvil
from demo.lab import Lab, Tools
from demo.node import LabNode
from tests.anvil import anvil_path
from tests.netns_ping import Ping
from tests.netns_support import wireguard_go

from benchmarks.adversaries.attacks import ATTACKS, TICK, TICKS, Stage, Turn, wireguard
from benchmarks.harness import NotMeasurableError, new_key, resident
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.x25519 import derive

ROUNDS: Final = 3
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")

Figures = dict[str, Any]


def adversaries() -> Figures:
    """Measure each case; return the medians and ranges over `ROUNDS` rounds."""
    anvil, program = anvil_path(), wireguard_go()
    if anvil is None or program is None:
        raise NotMeasurableError("anvil or wireguard-go is missing: run scripts/setup test")
    tools = Tools(real_anvil(Path(anvil)), Path(program))
    rounds = [{name: measured(tools, name) for name in ATTACKS} for _ in range(ROUNDS)]
    return {name: _summed([each[name] for each in rounds]) for name in ATTACKS}


def measured(tools: Tools, name: str) -> Figures:
    """Measure one case on a new network."""
    with ExitStack() as stack:
        stage = staged(stack.enter_context(Lab(tools)))
        a = stage.a
        assert a.daemon is not None
        pids = {"daemon_cpu_s": a.daemon.pid, "wireguard_cpu_s": wireguard(a.namespace)}
        checks = stack.enter_context(repeated(lambda: a.get("/ready") == {"ready": True}))
        questions = stack.enter_context(querying(stage.b, a.address))
        leaver = derive(new_key())
        token = stage.lab.mint_key("leaver", leaver).minted
        with Ping(stage.b.namespace, a.namespace, a.address, interval=0.01) as ping:
            before = {key: cpu(pid) for key, pid in pids.items()}
            with ATTACKS[name](stage) as turn:
                _run(turn, range(TICKS // 2))
                revoked = stage.lab.chain.send(calls.revoke(token))
                _run(turn, range(TICKS // 2, TICKS))
                used = {key: round(cpu(pid) - before[key], 2) for key, pid in pids.items()}
        applied = a.wait_applied(leaver, revoked.ordered, gone=True, timeout=30.0)
        assert ping.report is not None
        return {
            **used,
            "sent": ping.report.sent,
            "lost": ping.report.lost,
            "longest_gap_ms": round(ping.report.longest_gap * 1000),
            "revocation_ms": round((applied.at - revoked.ordered) * 1000, 1),
            **counted("checks", checks),
            **counted("questions", questions),
            "memory_mb": resident(a.daemon.pid)["hwm"],
            "load": round(os.getloadavg()[0], 1),
            **stage.found,
        }


def _run(turn: Turn, ticks: range) -> None:
    began = time.monotonic()
    for number, tick in enumerate(ticks):
        time.sleep(max(0.0, began + number * TICK - time.monotonic()))
        turn(tick)


def staged(lab: Lab) -> Stage:
    """Start three nodes that reach each other, and a third party."""
    lab.start_chain()
    for name in "abc":
        node = lab.add_node(name)
        lab.mint(node)
        lab.set_endpoint(node)
    for node in lab.nodes.values():
        node.start(HEALTH_CHECK_HOST="::", API_OPEN_TO="loopback,vpn", RELAY_LISTEN="tcp://[::]:8443")
    for node in lab.nodes.values():
        node.wait_ready()
    for node, other in permutations(lab.nodes.values(), 2):
        node.wait_reaches(other.address)
    namespace, address = lab.add_namespace("third")
    with namespace.entered():
        third = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    third.bind((address, 5555))
    third.setblocking(False)
    return Stage(lab, third, f"{address}:5555")


@contextmanager
def repeated(query: Callable[[], bool]) -> Iterator[list[float | None]]:
    """Call ``query`` four times per second; yield a list of seconds, with None for each failure."""
    found: list[float | None] = []
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(0.25):
            began = time.monotonic()
            found.append(time.monotonic() - began if query() else None)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@contextmanager
def querying(node: LabNode, server: str) -> Iterator[list[float | None]]:
    """Query another node's DNS server as a member, without retries; see `repeated`."""
    question = dns.message.make_query("b.vpn.internal", "A").to_wire()
    with node.namespace.entered():
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asker:
        asker.connect((server, 53))
        asker.settimeout(2.0)

        def query() -> bool:
            try:
                asker.send(question)
                return bool(asker.recv(2048))
            except OSError:
                return False

        with repeated(query) as found:
            yield found


def counted(name: str, found: list[float | None]) -> Figures:
    """Return the number of requests and of failures, and the longest time."""
    slowest = max((seconds for seconds in found if seconds is not None), default=0.0)
    return {
        name: len(found),
        f"{name}_failed": found.count(None),
        f"{name}_slowest_ms": round(slowest * 1000),
    }


def cpu(pid: int) -> float:
    """Return the processor time (s) of a process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / CLOCK_TICKS


def _summed(rounds: list[Figures]) -> Figures:
    """Return the median of each figure, and its range."""
    found: Figures = {}
    for key in rounds[0]:
        values = [each[key] for each in rounds if key in each]
        if all(isinstance(value, int | float) for value in values):
            found[key] = {"median": median(values), "range": [min(values), max(values)]}
        else:
            found[key] = values
    return found


ALL = {"adversaries": adversaries}
