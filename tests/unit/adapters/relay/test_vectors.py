"""Vectors of buffers, sent on a real pair of sockets."""

import socket

import pytest

from dstack_vpn.adapters.relay.vectors import Memory, Message


def message(*buffers: bytes) -> tuple[Message, list[Memory]]:
    """Return a message of these buffers, and the memory that holds them."""
    made, kept = Message(), []
    for index, buffer in enumerate(buffers):
        memory = Memory(len(buffer) or 1)
        memory.view[: len(buffer)] = buffer
        made.words[2 * index], made.words[2 * index + 1] = memory.address, len(buffer)
        kept.append(memory)
    return made, kept


def test_the_first_buffers_are_sent_as_one_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made, _kept = message(b"head", b"body", b"not this")
        assert made.send(ours.fileno(), 2, 0) == 8
        assert theirs.recv(100) == b"headbody"


PIECES = (b"aa", b"bbbb", b"cc", b"dddd")


@pytest.mark.parametrize("skip", range(13))
def test_the_rest_of_a_message_is_all_after_what_went(skip: int) -> None:
    made, _kept = message(*PIECES)
    assert made.after(4, skip, 100) == (bytearray(b"".join(PIECES)[skip:]), 0)


def test_past_the_limit_whole_pairs_are_left_out_and_counted() -> None:
    made, _kept = message(*PIECES, *PIECES)
    assert made.after(8, 0, 5) == (bytearray(b"aabbbb"), 3)
    assert made.after(8, 1, 11) == (bytearray(b"".join(PIECES)[1:] + b"aabbbb"), 1)
