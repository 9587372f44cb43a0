"""The round-trip time of a single datagram through a pair of relays."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.integration.relay.programs import MULLVADS, OUR_KIND, OUR_TLS, Kind

from benchmarks.relay.pairs import Figures, loaded_pair, medians, needs_mullvad, ratio, rounds, shown, table

ROUNDS: Final = 5
MODES: Final = {
    "back to back": ("--count", "6000"),
    "every 2 ms": ("--count", "500", "--gap", "2000"),
}
"""Without a pause, and with a pause before each datagram in which the processors go idle."""


def lone_datagrams() -> Figures:
    """Compare our relay, over TCP and TLS, with Mullvad's with TCP_NODELAY."""
    needs_mullvad()
    results: Figures = {}
    rows: list[Sequence[object]] = []
    kinds = (MULLVADS, OUR_KIND, OUR_TLS)
    for mode, options in MODES.items():
        taken = rounds(ROUNDS, {kind.name: partial(_ping, kind, options) for kind in kinds})
        base = taken[MULLVADS.name]
        results[mode] = {}
        for name, figures in taken.items():
            summed = medians(figures, ("lost",))
            if figures is not base:
                summed |= {f"{key}_ratio": ratio(figures, base, f"{key}_us") for key in ("p50", "p99")}
            results[mode][name] = summed
            ratios = [shown(summed.get(f"{key}_ratio", {})) for key in ("p50", "p99")]
            rows.append(
                (mode, name, summed["p50_us"], ratios[0], summed["p99_us"], ratios[1], summed["lost"])
            )
    header = ("1420 B", "pair", "p50 us", "ratio", "p99 us", "ratio", "lost")
    table("round trip of a single datagram", header, rows)
    return results


def _ping(kind: Kind, options: Sequence[str]) -> Figures:
    with loaded_pair(kind) as load:
        return load("ping", "--size", "1420", *options)
