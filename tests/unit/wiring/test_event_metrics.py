from dstack_vpn.core.observe.event import Entry, Event
from dstack_vpn.core.observe.events import EVENTS, BrakeEngaged, PeerSet, Reorged
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.wiring.event_metrics import EventMetrics

KEY = PublicKey(b"\1" * 32)


def counted(*events: Event) -> dict[tuple[str, ...], float]:
    metrics = EventMetrics()
    for number, event in enumerate(events, 1):
        metrics.take(Entry(number, 1.0, event))
    return {(s.name, *s.labels.values()): s.value for m in metrics.collect() for s in m.samples}


def test_events_are_counted_by_name_under_the_former_metric_as_well() -> None:
    found = counted(BrakeEngaged(9, 10), BrakeEngaged(8, 10), Reorged(2, 1, 1, 7))
    assert found["dstack_vpn_events_total", "brake.engaged"] == 2
    assert found["dstack_vpn_happenings_total", "brake.engaged"] == 2
    assert found["dstack_vpn_brake_engagements_total",] == 2
    assert found["dstack_vpn_chain_reorg_depth_blocks_count",] == 1
    assert found["dstack_vpn_chain_reorg_depth_blocks_bucket", "1.0"] == 0
    assert found["dstack_vpn_chain_reorg_depth_blocks_bucket", "2.0"] == 1


def test_every_event_is_there_before_it_has_happened() -> None:
    found = counted()
    assert {name[1] for name in found if name[0] == "dstack_vpn_events_total"} == EVENTS.keys()


def test_a_repair_has_no_latency() -> None:
    event = PeerSet(KEY, 1, "a", None, "active", True, 3, 0.004)
    repair = PeerSet(KEY, 1, "a", None, "active", True, 3, None)
    assert counted(event, repair)["dstack_vpn_event_to_peer_seconds_count",] == 1
