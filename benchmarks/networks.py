"""A gateway's forwarding, compared with the tunnel itself.

`throughput` runs iperf3 and ping from a plain client: to the gateway's own tunnel address, and to a
host on the network behind it, without a policy and with 100 port rules. Both ways pass the same two
WireGuard devices. Two streams exist all the time, of which one is stopped. Each segment through the
gateway is compared with the tunnel's before and after it.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from demo.chain import real_anvil
from demo.lab import Lab, Tools
from demo.namespaces import Namespace
from tests.anvil import anvil_path
from tests.netns.clients import Phone, forward
from tests.netns.networks import HOST, OFFICE, Office, join, set_routes
from tests.netns.policies import set_text
from tests.netns_support import wireguard_go

from benchmarks.harness import NotMeasurableError
from benchmarks.policy import _ports
from benchmarks.segments import SETTLE, Segment, rate, received, round_trip, schedule, summary
from dstack_vpn.adapters.contracts import calls

SEGMENTS: Final = 24
"""Segments of each kind through the gateway."""
SECONDS: Final = 0.6
"""Of a segment."""
KINDS: Final = ("tunnel", "network", "network_100")


def throughput() -> dict[str, Any]:
    """Compare throughput and round trip to the gateway, and through it."""
    anvil, program = anvil_path(), wireguard_go()
    if anvil is None or program is None:
        raise NotMeasurableError("anvil or wireguard-go is missing: run scripts/setup test")
    with Lab(Tools(real_anvil(Path(anvil)), Path(program))) as lab:
        lab.start_chain()
        lab.chain.send(calls.define_tag("gateway"))
        gateway = lab.add_node("gw")
        lab.mint(gateway)
        lab.set_endpoint(gateway)
        lab.chain.send(calls.set_tags(gateway.token, 1))
        forward(gateway)
        office = Office(lab, gateway)
        gateway.start()
        gateway.wait_ready()
        phone = Phone(lab, "phone-1")
        join(phone, "gw")
        set_routes(lab, gateway, OFFICE)
        targets = {
            "tunnel": (gateway.namespace, gateway.address),
            "network": (office.namespace, HOST[0]),
        }
        phone.wait_reaches(*(address for _, address in targets.values()))
        rates, trips, text = [], [], ""
        with _streams(phone, targets) as streams:
            for kind in schedule(KINDS, SEGMENTS):
                text = _set(lab, kind, text)
                with _running(streams[kind.partition("_")[0]]):
                    time.sleep(SETTLE)
                    before = received(gateway.namespace)
                    time.sleep(SECONDS)
                    rates.append(Segment(kind, rate(before, received(gateway.namespace))))
        for kind in schedule(KINDS, SEGMENTS):
            text = _set(lab, kind, text)
            time.sleep(SETTLE)
            _, address = targets[kind.partition("_")[0]]
            output = phone.namespace.run("ping", "-n", "-i", "0.002", "-c", "200", address)
            trips.append(Segment(kind, round_trip(output)))
    return {"segments": len(rates), "mbit_per_s": summary(rates), "round_trip_ms": summary(trips)}


def _set(lab: Lab, kind: str, before: str) -> str:
    """Set the policy of a kind, if it is another one, and return it."""
    text = _ports(100) if kind == "network_100" else ""
    if text != before:
        set_text(lab, text)
    return text


@contextmanager
def _streams(
    phone: Phone, targets: dict[str, tuple[Namespace, str]]
) -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """Yield clients of iperf3, all of them stopped."""
    made = {}
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for kind, (space, address) in targets.items():
        sink = space.popen(
            *("iperf3", "-s", "-1", "-B", address, "--forceflush"), stdout=subprocess.PIPE, **quiet
        )
        assert sink.stdout is not None
        while "listening" not in (line := sink.stdout.readline()):
            assert line, "iperf3 has ended"
        command = ("iperf3", "-c", address, "-t", "3600", "-i", "0")
        made[kind] = phone.namespace.popen(*command, stdout=subprocess.DEVNULL, **quiet)
        while "connected to" not in (line := sink.stdout.readline()):
            assert line, "iperf3 has ended"
        made[kind].send_signal(signal.SIGSTOP)
    try:
        yield made
    finally:
        for process in made.values():
            process.kill()


@contextmanager
def _running(stream: "subprocess.Popen[str]") -> Iterator[None]:
    stream.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        stream.send_signal(signal.SIGSTOP)


ALL: Final = {"networks-throughput": throughput}
