import asyncio

from structlog.testing import capture_logs
from tests.unit.daemon.conftest import eventually

from dstack_vpn.core.observe.event import Entry
from dstack_vpn.core.observe.events import BrakeEngaged, HealthChanged, TokenChanged
from dstack_vpn.daemon.observe.event_logger import EventLogger, write


async def test_a_line_comes_after_the_turn_of_what_published_its_event() -> None:
    logger = EventLogger()
    with capture_logs() as lines:
        logger.take(Entry(1, 1.0, BrakeEngaged(9, 10)))
        logger.take(Entry(2, 2.0, BrakeEngaged(8, 10)))
        await asyncio.sleep(0)
        assert lines == []
        await eventually(lambda: len(lines) == 2)
        assert [line["removals"] for line in lines] == [9, 8]
        logger.take(Entry(3, 3.0, BrakeEngaged(7, 10)))
        logger.flush()
        assert [line["removals"] for line in lines] == [9, 8, 7]


def test_a_line_has_the_events_time_level_and_component() -> None:
    with capture_logs() as lines:
        write(Entry(1, 1_700_000_000.25, BrakeEngaged(9, 10)))
    assert lines == [
        {
            "event": "brake.engaged",
            "log_level": "error",
            "component": "device",
            "timestamp": "2023-11-14T22:13:20.250000Z",
            "removals": 9,
            "peers": 10,
        }
    ]


def test_fields_that_the_log_has_itself_get_other_names() -> None:
    with capture_logs() as lines:
        write(Entry(1, 1.0, TokenChanged("granted", 7, "web-1", None, 12, 3)))
        write(Entry(2, 1.0, HealthChanged("chain", "ok", "failed", "gone")))
    assert (lines[0]["event"], lines[0]["event_kind"], lines[0]["cause"]) == (
        "chain.event",
        "granted",
        "12-3",
    )
    assert (lines[1]["component"], lines[1]["part"]) == ("node", "chain")
