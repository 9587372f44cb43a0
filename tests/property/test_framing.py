"""The scanner agrees with a plain decoder, over any bytes in any pieces."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.wireguard.framing import HEADER, RUN, RUN_BYTES, frame, scan

sizes = st.one_of(
    st.lists(st.integers(0, 40), max_size=40),
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 16, 148, 1420]), st.integers(1, 90)), max_size=8).map(
        lambda runs: [size for size, count in runs for _ in range(count)]
    ),
)


def plain(data: bytes) -> tuple[list[bytes], int]:
    """Decode frame by frame."""
    found, position = [], 0
    while position + HEADER <= len(data):
        end = position + HEADER + int.from_bytes(data[position : position + HEADER], "big")
        if end > len(data):
            break
        found.append(data[position + HEADER : end])
        position = end
    return found, position


def expanded(data: bytes, limit: int) -> tuple[list[bytes], int]:
    buffer = bytearray(data)
    runs, consumed = scan(buffer, len(buffer), limit)
    assert len(runs) <= limit
    found = []
    for offset, size, count, tail in runs:
        assert count <= RUN
        assert count == 1 or count * size + max(tail, 0) <= RUN_BYTES
        starts = [offset + index * (size + HEADER) for index in range(count)]
        found += [data[start : start + size] for start in starts]
        if tail >= 0:
            after = offset + count * (size + HEADER)
            found.append(data[after : after + tail])
    return found, consumed


@given(sizes, st.binary(max_size=6))
def test_frames_come_out_as_they_went_in(lengths: list[int], more: bytes) -> None:
    datagrams = [bytes([index % 251]) * length for index, length in enumerate(lengths)]
    data = b"".join(map(frame, datagrams)) + more
    assert expanded(data, 10_000) == plain(data)


@given(st.binary(max_size=600))
def test_any_bytes_are_decoded_like_the_plainest_decoder(data: bytes) -> None:
    assert expanded(data, 10_000) == plain(data)


@given(sizes, st.integers(1, 5))
def test_a_limit_only_splits_the_work(lengths: list[int], limit: int) -> None:
    data = b"".join(frame(bytes(length)) for length in lengths)
    whole, _ = plain(data)
    found: list[bytes] = []
    while True:
        part, consumed = expanded(data, limit)
        if not part:
            break
        found, data = found + part, data[consumed:]
    assert found == whole
