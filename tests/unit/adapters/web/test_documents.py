import asyncio
import threading
import time

from dstack_vpn.adapters.web.documents import Document, Later


async def test_it_is_made_once_for_many_readers_and_aside() -> None:
    made: list[threading.Thread] = []

    async def gather() -> Later:
        def later() -> tuple[str, bytes]:
            made.append(threading.current_thread())
            time.sleep(0.01)
            return "text/plain", b"x"

        return later

    document = Document(gather)
    assert await asyncio.gather(*(document.get() for _ in range(20))) == [("text/plain", b"x")] * 20
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


async def test_it_is_made_anew_once_its_share_of_the_time_is_over() -> None:
    count = 0

    async def gather() -> Later:
        def later() -> tuple[str, bytes]:
            nonlocal count
            count += 1
            return "text/plain", str(count).encode()

        return later

    document = Document(gather)
    await document.get()
    document._due = time.monotonic()
    assert await document.get() == ("text/plain", b"2")
