import asyncio

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.bridge.journal import KEPT, Journal
from dstack_vpn.bridge.tally import Tally
from dstack_vpn.core.chain_happenings import EndpointUsed
from dstack_vpn.core.happenings import BrakeReleased, Entry, PeerSet
from dstack_vpn.core.keys import PublicKey


def journal(entries: int = 0) -> Journal:
    found = Journal(SystemClock())
    for number in range(entries):
        found.announce(BrakeReleased(number))
    return found


def numbers(entries: list[Entry] | None) -> list[int]:
    assert entries is not None
    return [entry.number for entry in entries]


def test_entries_are_numbered_and_found_again() -> None:
    kept = journal(5)
    assert kept.last == 5
    assert numbers(kept.after(0)) == [1, 2, 3, 4, 5]
    assert numbers(kept.after(2, limit=2)) == [3, 4]
    assert kept.after(5) == []
    assert numbers(kept.latest(2)) == [4, 5]
    assert kept.latest(0) == []


def test_what_is_gone_or_not_there_yet_is_said_to_be() -> None:
    kept = journal(KEPT + 3)
    assert kept.after(2) is None
    assert numbers(kept.after(3, limit=1)) == [4]
    assert kept.after(KEPT + 4) is None


async def test_a_reader_waits_for_the_next() -> None:
    kept = journal(1)
    await asyncio.wait_for(kept.wait(0), 1)
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(kept.wait(1)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(wait.done() for wait in waits)
        kept.announce(EndpointUsed("ws://a"))


def test_listeners_hear_at_once_and_the_tally_counts() -> None:
    tally = Tally()
    kept = Journal(SystemClock(), [tally.take])
    kept.announce(PeerSet(PublicKey(b"\1" * 32), 1, "a", None, "active", True, 3, 0.004))
    kept.announce(PeerSet(PublicKey(b"\1" * 32), 1, "a", None, "active", True, 3, None))
    assert tally.kinds["peer.set"] == 2
    assert tally.kinds["peer.removed"] == 0
    assert sum(tally.latencies.counts) == 1
