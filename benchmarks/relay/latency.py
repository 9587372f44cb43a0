"""The round trip of a lone datagram through a pair: there, answered at once, and back."""

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
"""One after the other; and with a rest before each, in which the processors fall asleep."""


def lone_datagrams() -> Figures:
    """Ours and ours over TLS to Mullvad's with TCP_NODELAY."""
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
                summed |= {f"{what}_ratio": ratio(figures, base, f"{what}_us") for what in ("p50", "p99")}
            results[mode][name] = summed
            ratios = [shown(summed.get(f"{what}_ratio", {})) for what in ("p50", "p99")]
            rows.append(
                (mode, name, summed["p50_us"], ratios[0], summed["p99_us"], ratios[1], summed["lost"])
            )
    header = ("1420 B", "pair", "p50 us", "ratio", "p99 us", "ratio", "lost")
    table("round trip of a lone datagram", header, rows)
    return results


def _ping(kind: Kind, options: Sequence[str]) -> Figures:
    with loaded_pair(kind) as load:
        return load("ping", "--size", "1420", *options)
