import asyncio

from dstack_vpn.daemon.slices import slices


async def test_others_get_their_turn_between_the_parts() -> None:
    order: list[object] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(_go_on(order))
        async for part in slices(range(5), 2):
            order += part
    assert order[:7] == [0, 1, "another", 2, 3, "another", 4]


async def test_nothing_has_no_parts() -> None:
    assert [part async for part in slices("", 3)] == []


async def _go_on(order: list[object]) -> None:
    for _ in range(3):
        order.append("another")
        await asyncio.sleep(0)
