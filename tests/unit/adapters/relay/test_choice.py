"""The choice of an upstream. One without frames is a problem until a frame arrives."""

from structlog.testing import capture_logs

from dstack_vpn.adapters.relay.choice import Choice
from dstack_vpn.core.paths.relay_url import RelayUrl

A, B = (RelayUrl.parse(f"tcp://192.0.2.{number}:443") for number in (1, 2))
ELSEWHERE = RelayUrl.parse("tcp://192.0.2.3:443")


def test_the_first_is_preferred_until_it_fails() -> None:
    choice = Choice([A, B])
    assert choice.order(0.0)[0] == A
    choice.failed(A, 0.0)
    assert choice.order(0.0) == [B]


def test_with_all_failed_there_is_still_an_order() -> None:
    choice = Choice([A, B])
    for upstream in (A, B):
        choice.failed(upstream, 0.0)
    assert set(choice.order(0.0)) == {A, B}


def test_an_upstream_that_is_not_configured_any_more_is_left() -> None:
    choice = Choice([A, B])
    assert choice.better(ELSEWHERE, 0.0) == A
    for record in (choice.failed, lambda u, now: choice.measured(u, now, 0.1)):
        record(ELSEWHERE, 0.0)  # neither call raises
    assert choice.better(A, 0.0) is None


def test_a_connection_alone_does_not_end_a_barren_state_and_each_state_is_logged_once() -> None:
    choice = Choice([A])
    with capture_logs() as lines:
        for now in (0.0, 1.0):
            choice.carried_nothing(A, now, "it speaks HTTP")
        choice.carried_nothing(A, 2.0, "it hangs up")
        choice.connected(A, 3.0, 0.01)
        assert choice.problem([A]) == f"{A.name}: it hangs up"
        choice.note_received(A, 4.0)
        choice.note_received(A, 5.0)
    assert choice.problem([A]) is None
    assert [line["event"] for line in lines] == [
        *("relay.carried_nothing", "relay.carried_nothing"),
        "relay.carries",
    ]


def test_one_used_upstream_that_may_carry_is_no_problem_and_none_at_all_is() -> None:
    choice = Choice([A, B])
    assert choice.problem([]) == "no upstream can be reached"
    choice.unreachable = "refused"
    assert choice.problem([]) == "refused"
    choice.carried_nothing(A, 0.0, "it speaks HTTP")
    assert choice.problem([B]) is None
