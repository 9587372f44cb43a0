from dataclasses import dataclass, field, replace

from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import HealthChanged
from dstack_vpn.core.observe.reports import ChainReport, DeviceReport, MembersReport, Reports, StorageReport
from dstack_vpn.daemon.observe.health import HealthWatch


@dataclass
class Hand:
    """A clock that the test sets."""

    at: float = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


WELL = Reports(
    started=1000.0,
    chain=ChainReport("ws://a", None, head_seen=1000.0, paced=True),
    members=MembersReport(synced=1000.0),
    device=DeviceReport(up=True, problem=None),
)


@dataclass
class Bench:
    reports: Reports = WELL
    clock: Hand = field(default_factory=Hand)
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = HealthWatch(lambda: self.reports, self.clock, self.told.append)

    def since(self, name: str) -> float | None:
        return next(c.since for c in self.watch.verdict().components if c.name == name)


def test_since_when_is_when_the_status_changed() -> None:
    bench = Bench()
    assert bench.since("store") == 1000.0
    bench.clock.at = 1010.0
    bench.reports = replace(bench.reports, storage=StorageReport("disk full"))
    assert bench.since("store") == 1010.0
    bench.clock.at = 1020.0
    assert bench.since("store") == 1010.0
    assert bench.told == [HealthChanged("store", "ok", "warning", "disk full")]


def test_a_count_of_seconds_is_no_news_but_another_reason_is() -> None:
    bench = Bench()
    bench.watch.verdict()
    for bench.clock.at in (1070.0, 1071.0, 1072.5):
        bench.watch.verdict()
    assert [h.component for h in bench.told if isinstance(h, HealthChanged)] == ["chain"]
    bench.reports = replace(bench.reports, chain=ChainReport(problem="no endpoint answers"))
    bench.watch.verdict()
    assert len(bench.told) == 2
