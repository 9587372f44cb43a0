"""Throughput and processor time of a pair, compared with Mullvad's and with variants of ours.

If the source sends with GSO, the sink receives with GRO, as a WireGuard that supports both.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from tests.integration.relay.programs import (
    MULLVADS,
    MULLVADS_SHIPPED,
    OUR_KIND,
    OUR_PLAIN,
    OUR_TLS,
    Kind,
)

from benchmarks.relay.pairs import (
    Figures,
    loaded_pair,
    medians,
    needs_mullvad,
    ratio,
    rounds,
    shown,
    table,
)

ROUNDS: Final = 3
SECONDS: Final = "1.5"
MISHAPS: Final = ("lost", "reordered", "duplicates", "damaged")
LOADS: Final[dict[str, tuple[str, ...]]] = {
    "1420 B one way": ("--size", "1420"),
    "1420 B both ways": ("--size", "1420", "--both"),
    "100 B one way": ("--size", "100"),
    "100 B both ways": ("--size", "100", "--both"),
    "mixed 16 to 1420 B": ("--mixed",),
    "1420 B one way, GSO": ("--size", "1420", "--gso", "--gro"),
    "1420 B both ways, GSO": ("--size", "1420", "--gso", "--gro", "--both"),
}
SOME: Final = ("1420 B one way", "100 B one way", "1420 B one way, GSO")
HEADER: Final = (
    "load",
    "pair",
    "Mbit/s",
    "ratio",
    "CPU s/GB",
    "ratio",
    "lost",
    "reordered",
    "window",
    "load CPU",
)


def against_mullvad() -> Figures:
    """Compare our relay with Mullvad's with TCP_NODELAY, under each load."""
    needs_mullvad()
    return _compare("relay throughput against Mullvad's pair", LOADS, (MULLVADS, OUR_KIND))


def variants() -> Figures:
    """Compare ours over TLS, ours without offloads, and Mullvad's as shipped with ours.

    As shipped, Mullvad's does not disable Nagle's algorithm: the end of each window waits for an
    acknowledgement.
    """
    needs_mullvad()
    return _compare("variants against our plain pair", SOME, (OUR_KIND, OUR_TLS, OUR_PLAIN, MULLVADS_SHIPPED))


def _compare(title: str, loads: Iterable[str], kinds: Sequence[Kind]) -> Figures:
    """Measure the kinds; the ratios are to the first one."""
    results: Figures = {}
    rows: list[Sequence[object]] = []
    for load in loads:
        options = (*LOADS[load], "--seconds", SECONDS)
        taken = rounds(ROUNDS, {kind.name: partial(_flood, kind, options) for kind in kinds})
        base = taken[kinds[0].name]
        results[load] = {}
        for name, figures in taken.items():
            summed = medians(figures, MISHAPS)
            if figures is not base:
                summed["mbit_s_ratio"] = ratio(figures, base, "mbit_s")
                summed["cpu_ratio"] = ratio(figures, base, "cpu_s_per_gb")
            results[load][name] = summed
            rows.append(_row(load, name, summed))
    table(title, HEADER, rows)
    return results


def _flood(kind: Kind, options: Sequence[str]) -> Figures:
    with loaded_pair(kind) as load:
        return load("flood", *options)


def _row(load: str, name: str, figures: Figures) -> Sequence[object]:
    return (
        load,
        name,
        f"{figures['mbit_s']:.0f}",
        shown(figures.get("mbit_s_ratio", {})),
        f"{figures['cpu_s_per_gb']:.2f}",
        shown(figures.get("cpu_ratio", {})),
        figures["lost"],
        figures["reordered"],
        f"{figures['window_kib']:.0f} KiB",
        figures["load_cpu"],
    )
