"""Turns of the event loop end in time, also with slow steps and many connections."""

import asyncio
import socket
import time

from tests.unit.adapters.web.serving import until

from dstack_vpn.adapters.turns import AT_ONCE, PENDING, TURN, accepting, turn


def test_a_turn_has_at_least_one_step_and_no_more_once_its_time_is_over() -> None:
    steps = 0
    for _ in turn():
        steps += 1
        time.sleep(TURN)
    assert steps == 1
    assert sum(1 for _ in turn()) > 100


class Closing(asyncio.Protocol):
    """A protocol that counts and aborts connections."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        Closing.made += 1
        transport.abort()


async def test_a_crowd_finds_room_to_wait_and_few_of_it_are_accepted_in_a_turn() -> None:
    """A backlog of 128 dropped further clients' packets, including a health check's."""
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    server = await accepting(loop.create_server(Closing, sock=listening, backlog=AT_ONCE), listening)
    crowd = [socket.socket() for _ in range(300)]
    assert len(crowd) < PENDING
    try:
        for each in crowd:
            each.settimeout(0.5)  # a full queue delays the retry by 1 s
            each.connect(listening.getsockname())
        for _ in range(4):  # asyncio accepts the first ones in these turns
            await asyncio.sleep(0)
        assert 0 < Closing.made <= 4 * AT_ONCE
        await until(lambda: Closing.made == len(crowd))
    finally:
        for each in crowd:
            each.close()
        server.close()
        await asyncio.sleep(0)
