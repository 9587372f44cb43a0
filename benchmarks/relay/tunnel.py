"""A real WireGuard tunnel between two namespaces: over direct UDP, and through pairs of relays.

All pairs run at once. The tunnel uses one after the other, while the others are idle. Its MTU is
the same for all.
"""

import contextlib
import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.integration.relay.programs import MULLVADS, OUR_KIND, OUR_TLS, Popen, pair, text
from tests.netns_support import Namespace, connect, wait_until, wireguard_go

from benchmarks.harness import NotMeasurableError
from benchmarks.relay.pairs import Figures, medians, needs_mullvad, ratio, rounded, rounds, shown, table

ROUNDS: Final = 5
SECONDS: Final = 4.0
PINGS: Final = 300
TRIES: Final = 3
OUTSIDE: Final = ("10.94.0.1", "10.94.0.2")
INSIDE: Final = ("10.95.0.1", "10.95.0.2")
PORT: Final = 51820
MTU: Final = 1420
DIRECT: Final = "direct UDP"
FIGURES: Final = ("up_mbit_s", "down_mbit_s", "ping_ms")


def tunnel() -> Figures:
    """Measure iperf3 through the tunnel, in both directions, and ping."""
    needs_mullvad()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        near, far = (stack.enter_context(Namespace(label)) for label in ("near", "far"))
        connect(near, far, (f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/24"))
        peer = _wireguard(near, far, folder)
        endpoints = {DIRECT: f"{OUTSIDE[1]}:{PORT}"}
        for kind in (MULLVADS, OUR_KIND, OUR_TLS):
            at, popen = ("127.0.0.1", OUTSIDE[1]), (_within(near), _within(far))
            entry, _ = stack.enter_context(pair(kind, kind, ("127.0.0.1", PORT), folder, at=at, popen=popen))
            assert entry.address is not None
            endpoints[kind.name] = text(entry.address)
        far.popen("iperf3", "-s", stdout=subprocess.DEVNULL)
        measured = {name: partial(_turn, near, peer, endpoint) for name, endpoint in endpoints.items()}
        return _results(rounds(ROUNDS, measured))


def _results(taken: dict[str, list[Figures]]) -> Figures:
    results: Figures = {}
    rows: list[Sequence[object]] = []
    for name, figures in taken.items():
        results[name] = medians(figures)
        row: list[object] = [name]
        for key in FIGURES:
            row.append(results[name][key])
            for base in (MULLVADS.name, DIRECT):
                compared = {} if name in {base, DIRECT} else ratio(figures, taken[base], key)
                row.append(shown(compared))
                if compared:
                    results[name].setdefault(f"to {base}", {})[key] = compared
        rows.append(row)
    bases = ("to Mullvad's", "to direct")
    table("WireGuard tunnel", ("transport", "up Mbit/s", *bases, "down", *bases, "ping ms", *bases), rows)
    return results


def _wireguard(near: Namespace, far: Namespace, folder: Path) -> str:
    """Set up the tunnel's two ends; return the far end's public key."""
    program = wireguard_go()
    assert program is not None, "wireguard-go is missing: run scripts/setup test"
    publics = []
    for space, address in ((near, INSIDE[0]), (far, INSIDE[1])):
        space.popen(program, "-f", "wg0", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda space=space: "wg0" in space.run("wg", "show", "interfaces"), "wireguard-go runs")  # type: ignore[misc]
        private = space.run("wg", "genkey")
        publics.append(space.run("wg", "pubkey", text=private).strip())
        (folder / space.name).touch(mode=0o600)
        (folder / space.name).write_text(private)
        space.run("wg", "set", "wg0", "listen-port", str(PORT), "private-key", folder / space.name)
        space.run("ip", "address", "add", f"{address}/24", "dev", "wg0")
        space.run("ip", "link", "set", "wg0", "mtu", str(MTU), "up")
    near.run("wg", "set", "wg0", "peer", publics[1], "allowed-ips", f"{INSIDE[1]}/32")
    far.run("wg", "set", "wg0", "peer", publics[0], "allowed-ips", f"{INSIDE[0]}/32")
    return publics[1]


def _turn(near: Namespace, peer: str, endpoint: str) -> Figures:
    """Return a transport's figures; repeat if a late packet changed WireGuard's endpoint."""
    for _ in range(TRIES):
        figures = _try(near, peer, endpoint)
        if endpoint in near.run("wg", "show", "wg0", "endpoints"):
            return figures
    raise NotMeasurableError(f"WireGuard does not keep the endpoint {endpoint}")


def _try(near: Namespace, peer: str, endpoint: str) -> Figures:
    def arrives() -> bool:
        # Packets in transit over the previous transport change WireGuard's endpoint back to it.
        near.run("wg", "set", "wg0", "peer", peer, "endpoint", endpoint)
        return " 0% packet loss" in near.run(
            "ping", "-q", "-c", "2", "-i", "0.2", "-W", "1", INSIDE[1], check=False
        )

    wait_until(arrives, f"the tunnel is up over {endpoint}", 20)
    output = near.run("ping", "-c", str(PINGS), "-i", "0.01", INSIDE[1])
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", output)]
    return {
        "ping_ms": statistics.median(times),
        "up_mbit_s": _iperf3(near),
        "down_mbit_s": _iperf3(near, "--reverse"),
    }


def _iperf3(near: Namespace, *options: str) -> float:
    seconds = ("--time", str(SECONDS), "--omit", "1")
    report = near.run("iperf3", "--client", INSIDE[1], "--json", *seconds, *options)
    figures: dict[str, Any] = json.loads(report)
    return rounded(figures["end"]["sum_received"]["bits_per_second"] / 1e6)


def _within(space: Namespace) -> Popen:
    return lambda command, **options: space.popen(*command, **options)
