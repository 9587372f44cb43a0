import asyncio

from dstack_vpn.slices import slices


async def test_others_get_their_turns_between_the_parts() -> None:
    order: list[object] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(_go_on(order))
        async for part in slices(range(5), 2):
            order += part
    assert order[:4] == [0, 1, "another", "another"]
    assert [each for each in order if each != "another"] == [0, 1, 2, 3, 4]


async def test_a_part_keeps_the_type_of_the_whole() -> None:
    assert [part async for part in slices(b"abcde", 2)] == [b"ab", b"cd", b"e"]


async def test_nothing_has_no_parts() -> None:
    assert [part async for part in slices("", 3)] == []


async def _go_on(order: list[object]) -> None:
    """Take two turns of the event loop in a row."""
    for _ in range(2):
        order.append("another")
        await asyncio.sleep(0)
