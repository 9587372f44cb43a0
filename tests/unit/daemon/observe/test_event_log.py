import asyncio

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.observe.event import Entry
from dstack_vpn.core.observe.events import BrakeReleased, EndpointFollowed
from dstack_vpn.daemon.observe.event_log import KEPT, EventLog


def event_log(entries: int = 0) -> EventLog:
    found = EventLog(SystemClock())
    for number in range(entries):
        found.publish(BrakeReleased(number))
    return found


def numbers(entries: list[Entry] | None) -> list[int]:
    assert entries is not None
    return [entry.number for entry in entries]


def test_entries_are_numbered_and_found_again() -> None:
    kept = event_log(5)
    assert kept.last == 5
    assert numbers(kept.after(0)) == [1, 2, 3, 4, 5]
    assert numbers(kept.after(2, limit=2)) == [3, 4]
    assert kept.after(5) == []
    assert numbers(kept.latest(2)) == [4, 5]
    assert kept.latest(0) == []


def test_what_is_gone_or_not_there_yet_is_said_to_be() -> None:
    kept = event_log(KEPT + 3)
    assert kept.after(2) is None
    assert numbers(kept.after(3, limit=1)) == [4]
    assert kept.after(KEPT + 4) is None


async def test_a_reader_waits_for_the_next() -> None:
    kept = event_log(1)
    await asyncio.wait_for(kept.wait(0), 1)
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(kept.wait(1)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(wait.done() for wait in waits)
        kept.publish(EndpointFollowed("ws://a"))


def test_a_listener_gets_what_was_kept_and_what_comes() -> None:
    kept, heard = event_log(2), list[int]()
    kept.subscribe(lambda entry: heard.append(entry.number))
    kept.publish(EndpointFollowed("ws://a"))
    assert heard == [1, 2, 3]
