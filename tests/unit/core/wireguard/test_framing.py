import pytest

from dstack_vpn.core.wireguard.framing import RUN, RUN_BYTES, foreign_protocol, frame, scan


def scanned(
    *datagrams: bytes, more: bytes = b"", limit: int = 100
) -> tuple[list[tuple[int, int, int, int]], int]:
    data = bytearray(b"".join(map(frame, datagrams)) + more)
    return scan(data, len(data), limit)


def test_the_wire_is_mullvads() -> None:
    assert frame(b"abc") == b"\x00\x03abc"
    assert frame(b"") == b"\x00\x00"
    assert frame(bytes(65535))[:2] == b"\xff\xff"
    with pytest.raises(OverflowError):
        frame(bytes(65536))


def test_nothing_is_found_in_a_part_of_a_frame() -> None:
    for part in (b"", b"\x00", b"\x00\x05", b"\x00\x05abcd"):
        assert scanned(more=part) == ([], 0)


def test_equal_frames_are_one_run_and_a_shorter_one_ends_it() -> None:
    assert scanned(b"aaaa", b"bbbb", b"cccc", b"dd") == ([(2, 4, 3, 2)], 22)


def test_a_longer_or_an_empty_frame_does_not_end_a_run() -> None:
    assert scanned(b"aa", b"bb", b"ccc")[0] == [(2, 2, 2, -1), (10, 3, 1, -1)]
    assert scanned(b"aa", b"bb", b"")[0] == [(2, 2, 2, -1), (10, 0, 1, -1)]


def test_empty_frames_are_datagrams_too() -> None:
    assert scanned(b"", b"", b"x")[0] == [(2, 0, 1, -1), (4, 0, 1, -1), (6, 1, 1, -1)]


def test_a_part_of_a_shorter_frame_waits() -> None:
    assert scanned(b"aaaa", b"bbbb", more=b"\x00\x03cc") == ([(2, 4, 2, -1)], 12)


def test_a_run_is_no_longer_than_the_kernel_takes() -> None:
    runs, _ = scanned(*[b"x"] * (RUN + 5))
    assert [count for _, _, count, _ in runs] == [RUN, 5]
    runs, _ = scanned(*[bytes(1420)] * 50)
    assert [count for _, _, count, _ in runs] == [RUN_BYTES // 1420, 50 - RUN_BYTES // 1420]
    assert scanned(bytes(40000), bytes(40000))[0] == [(2, 40000, 1, -1), (40004, 40000, 1, -1)]


def test_it_stops_after_the_limit() -> None:
    runs, consumed = scanned(b"a", b"bb", b"ccc", limit=2)
    assert (runs, consumed) == ([(2, 1, 1, -1), (5, 2, 1, -1)], 7)


@pytest.mark.parametrize(
    ("opening", "protocol"),
    [
        (b"GET / HTTP/1.1", "HTTP"),
        (b"HTTP/1.1 400", "HTTP"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"SSH-2.0", "SSH"),
        (frame(b"\x01" + bytes(147)), None),
        (b"\x16\x03\x05\x00", None),
        (b"", None),
    ],
)
def test_other_protocols_are_told_by_their_first_bytes(opening: bytes, protocol: str | None) -> None:
    assert foreign_protocol(opening[:4]) == protocol
