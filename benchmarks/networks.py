"""A gateway's forwarding, compared with the tunnel itself.

`throughput` runs iperf3 and ping from a plain client: to the gateway's own tunnel address, and to a
host on the network behind it, without a policy and with 100 port rules, in interleaved rounds. Both
ways pass the same two WireGuard devices.
"""

import json
import re
import subprocess
from pathlib import Path
from statistics import median
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
from dstack_vpn.adapters.contracts import calls

ROUNDS: Final = 6
SECONDS: Final = 4
KINDS: Final = ("tunnel", "network", "network_100")


def throughput() -> dict[str, Any]:
    """Compare throughput and round trip to the gateway, and through it."""
    anvil, program = anvil_path(), wireguard_go()
    if anvil is None or program is None:
        raise NotMeasurableError("anvil or wireguard-go is missing: run scripts/setup test")
    mbits: dict[str, list[float]] = {kind: [] for kind in KINDS}
    trips: dict[str, list[float]] = {kind: [] for kind in KINDS}
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
        phone.wait_reaches(gateway.address, HOST[0])
        target = dict.fromkeys(KINDS, HOST[0]) | {"tunnel": gateway.address}
        for turn in range(ROUNDS):
            for kind in KINDS if turn % 2 == 0 else KINDS[::-1]:
                set_text(lab, _ports(100) if kind == "network_100" else "")
                phone.wait_reaches(target[kind])
                server = gateway.namespace if kind == "tunnel" else office.namespace
                mbits[kind].append(_iperf(phone.namespace, server, target[kind]))
                trips[kind].append(_round_trip(phone.namespace, target[kind]))
    ratios = {kind: [a / b for a, b in zip(mbits[kind], mbits["tunnel"], strict=True)] for kind in KINDS[1:]}
    return {
        "rounds": ROUNDS,
        "mbit_per_s": {kind: round(median(found), 1) for kind, found in mbits.items()},
        "round_trip_ms": {kind: round(median(found), 3) for kind, found in trips.items()},
        "ratio": {kind: round(median(found), 3) for kind, found in ratios.items()},
        "ratios": {kind: [round(each, 3) for each in found] for kind, found in ratios.items()},
    }


def _iperf(client: Namespace, server: Namespace, address: str) -> float:
    sink = server.popen(
        *("iperf3", "-s", "-1", "-B", address, "--forceflush"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert sink.stdout is not None
    while "listening" not in (line := sink.stdout.readline()):
        assert line, "iperf3 has ended"
    output = client.run("iperf3", "-J", "-c", address, "-t", str(SECONDS))
    sink.communicate()
    return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e6


def _round_trip(client: Namespace, address: str) -> float:
    output = client.run("ping", "-q", "-i", "0.002", "-c", "500", address)
    found = re.search(r"= [\d.]+/([\d.]+)/", output)
    assert found is not None, output
    return float(found[1])


ALL: Final = {"networks-throughput": throughput}
