"""What a member's attack costs others: the packets of a bystander, and the processor time of a
node.

Three real nodes with wireguard-go. b pings a through its tunnel every 10 ms, and this machine asks
a for its health over loopback four times a second, while c attacks a for 20 s. A block comes every
0.1 s in each case, so what a case costs beyond `honest` is the attack. Every round has each case
once, on a network of its own.

The attacker's own processes share the cores with everything else. They run at the lowest priority,
as they would be on another machine, but its WireGuard does not.
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
    """Each case with the medians and ranges of some rounds."""
    anvil, program = anvil_path(), wireguard_go()
    if anvil is None or program is None:
        raise NotMeasurableError("anvil or wireguard-go is missing: run scripts/setup test")
    tools = Tools(real_anvil(Path(anvil)), Path(program))
    rounds = [{name: measured(tools, name) for name in ATTACKS} for _ in range(ROUNDS)]
    return {name: _summed([each[name] for each in rounds]) for name in ATTACKS}


def measured(tools: Tools, name: str) -> Figures:
    """One case, on a network of its own."""
    with ExitStack() as stack:
        stage = staged(stack.enter_context(Lab(tools)))
        a = stage.a
        assert a.daemon is not None
        pids = {"daemon_cpu_s": a.daemon.pid, "wireguard_cpu_s": wireguard(a.namespace)}
        checks = stack.enter_context(repeated(lambda: a.get("/ready") == {"ready": True}))
        questions = stack.enter_context(asking(stage.b, a.address))
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
    """Three nodes that reach each other, and a third party."""
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
def repeated(ask: Callable[[], bool]) -> Iterator[list[float | None]]:
    """Ask four times a second; collects seconds, and None where it failed."""
    found: list[float | None] = []
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(0.25):
            began = time.monotonic()
            found.append(time.monotonic() - began if ask() else None)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@contextmanager
def asking(node: LabNode, server: str) -> Iterator[list[float | None]]:
    """Ask another node's DNS responder as a member does, once and without a second try."""
    question = dns.message.make_query("b.vpn.internal", "A").to_wire()
    with node.namespace.entered():
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asker:
        asker.connect((server, 53))
        asker.settimeout(2.0)

        def ask() -> bool:
            try:
                asker.send(question)
                return bool(asker.recv(2048))
            except OSError:
                return False

        with repeated(ask) as found:
            yield found


def counted(name: str, found: list[float | None]) -> Figures:
    """How many were asked and failed, and the longest time."""
    slowest = max((seconds for seconds in found if seconds is not None), default=0.0)
    return {
        name: len(found),
        f"{name}_failed": found.count(None),
        f"{name}_slowest_ms": round(slowest * 1000),
    }


def cpu(pid: int) -> float:
    """Seconds of processor time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / CLOCK_TICKS


def _summed(rounds: list[Figures]) -> Figures:
    """The median of each figure, and its range."""
    found: Figures = {}
    for key in rounds[0]:
        values = [each[key] for each in rounds if key in each]
        if all(isinstance(value, int | float) for value in values):
            found[key] = {"median": median(values), "range": [min(values), max(values)]}
        else:
            found[key] = values
    return found


ALL = {"adversaries": adversaries}
