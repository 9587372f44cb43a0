"""The identity of a source, and the division of places among sources."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.limits.shares import NOWHERE, THIS_MACHINE, Kind, Places, Shares, Source, Sources

PLAN = AddressPlan(IPv4Network("10.77.0.0/16"), IPv6Network("fd77:1:2:3::/64"))
SOURCES = Sources(PLAN, (ip_network("172.18.0.0/16"), ip_network("127.0.0.0/8")))


def addresses(token: int) -> list[str]:
    return [cidr.partition("/")[0] for cidr in PLAN.allowed_ips(token)]


def stranger(name: object) -> Source:
    return Source(Kind.STRANGER, str(name))


def member(token: int) -> Source:
    return Source(Kind.MEMBER, f"token {token}")


# -- sources ---------------------------------------------------------------------------------------


def test_each_member_is_one_source_by_both_of_its_addresses_and_no_two_are_one() -> None:
    names = {token: {SOURCES.of(a) for a in addresses(token)} for token in (1, 2, 300)}
    assert all(len(addresses(token)) == 2 for token in names)
    assert names == {token: {member(token)} for token in names}


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", stranger("192.0.2.1")),
        ("::ffff:192.0.2.1", stranger("192.0.2.1")),
        ("10.78.0.2", stranger("10.78.0.2")),
        ("2001:db8::1", stranger("2001:db8::/64")),
        ("2001:db8::ffff:ffff:0:1", stranger("2001:db8::/64")),
        ("2001:db8:0:1::1", stranger("2001:db8:0:1::/64")),
        ("fe80::1%eth0", stranger("fe80::/64")),
        ("127.0.0.1", THIS_MACHINE),
        ("127.3.4.5", THIS_MACHINE),
        ("::1", THIS_MACHINE),
        ("::ffff:127.0.0.1", THIS_MACHINE),
        ("172.18.0.9", Source(Kind.OURS, "172.18.0.9")),
        ("nonsense", NOWHERE),
        (None, NOWHERE),
    ],
)
def test_others_count_by_address_or_by_their_64(address: str | None, source: Source) -> None:
    assert SOURCES.of(address) == source


def test_an_address_of_our_own_is_this_machine() -> None:
    assert SOURCES.of("192.0.2.7", "192.0.2.7") == THIS_MACHINE
    assert SOURCES.of(addresses(4)[0], addresses(4)[0]) == THIS_MACHINE
    assert SOURCES.of("192.0.2.7", "192.0.2.8") == stranger("192.0.2.7")


# -- places ----------------------------------------------------------------------------------------

SHARES = Shares(20, each=8, ours=14, reserved={Kind.OURS: 3, Kind.MEMBER: 4, Kind.STRANGER: 2}, stale=5.0)


class Room:
    """Places with numbered holders."""

    def __init__(self, shares: Shares = SHARES) -> None:
        self.places: Places[int] = Places(shares)
        self.next = 0
        self.gone: list[int] = []

    def take(self, source: Source, now: float = 0.0) -> int | None:
        """Return the number of the holder that got a place, or None."""
        self.next += 1
        taken = self.places.take(source, self.next, now)
        if taken is None:
            return None
        if taken.displaced is not None:
            self.gone.append(taken.displaced)
        return self.next


def test_one_source_holds_no_more_than_its_most() -> None:
    room = Room()
    assert sum(room.take(stranger("a")) is not None for _ in range(30)) == 8
    assert sum(room.take(THIS_MACHINE) is not None for _ in range(30)) == 20 - 8 - 4  # 4 are reserved
    assert not room.gone


def test_strangers_that_take_all_they_can_leave_what_is_reserved() -> None:
    room = Room()
    for number in range(100):
        room.take(stranger(number % 3))
    assert len(room.places) == 20 - 3 - 4
    assert all(room.take(THIS_MACHINE) is not None for _ in range(3))
    assert all(room.take(member(1)) is not None for _ in range(4))
    assert not room.gone


def test_a_newcomer_displaces_the_newest_place_of_the_richest() -> None:
    room = Room(Shares(6, each=6))
    rich = [room.take(stranger("rich")) for _ in range(5)]
    room.take(stranger("poor"))
    assert room.take(stranger("new")) is not None
    assert room.gone == [rich[-1]]
    assert [room.places.held(stranger(name)) for name in ("rich", "poor", "new")] == [4, 1, 1]


def test_a_place_that_is_in_use_is_displaced_last() -> None:
    room = Room(Shares(3, each=3))
    first, second, third = (room.take(stranger("rich")) for _ in range(3))
    assert first and second and third
    room.places.firm(second)
    room.places.firm(third)
    room.take(stranger("new"))
    assert room.gone == [first]


def test_a_stale_place_is_displaced_even_if_its_source_holds_no_other() -> None:
    room = Room(Shares(3, each=3, stale=5.0))
    firm, loose, _ = (room.take(stranger(name), 0.0) for name in "abc")
    assert firm
    room.places.firm(firm)
    assert room.take(stranger("d"), 4.0) is None
    assert room.take(stranger("d"), 5.0) is not None
    assert room.gone == [loose]
    assert room.take(stranger("e"), 5.0) is not None
    assert room.take(stranger("f"), 5.0) is None
    assert room.places.held(stranger("a")) == 1


def test_a_source_at_its_most_replaces_its_own_stale_places_alone() -> None:
    room = Room(Shares(9, each=2, stale=5.0))
    other = room.take(stranger("b"), 0.0)
    own = [room.take(stranger("a"), 0.0) for _ in range(2)]
    assert room.take(stranger("a"), 1.0) is None
    assert room.take(stranger("a"), 6.0) is not None
    assert room.gone == own[:1]
    assert other not in room.gone


def test_who_has_left_leaves_no_trace() -> None:
    room = Room()
    holder = room.take(member(1))
    assert holder
    assert room.places.leave(holder)
    assert not room.places.leave(holder)
    assert (len(room.places), room.places._held, room.places._used[Kind.MEMBER]) == (0, {}, 0)


KINDS = st.sampled_from(
    [THIS_MACHINE, Source(Kind.OURS, "proxy"), *map(member, range(4)), *map(stranger, range(4))]
)
STEPS = st.lists(st.tuples(st.sampled_from(["take", "take", "leave", "firm", "loosen"]), KINDS), max_size=120)


@given(STEPS)
def test_whatever_comes_the_bounds_hold_and_nobody_is_kept_from_a_fair_share(
    steps: list[tuple[str, Source]],
) -> None:
    places: Places[int] = Places(SHARES)
    holders: dict[Source, list[int]] = {}
    for now, (step, source) in enumerate(steps):
        own = holders.setdefault(source, [])
        if step == "take":
            before = {each: len(mine) for each, mine in holders.items()}
            taken = places.take(source, now, now * 0.5)
            if taken is None:
                # A source is refused only at its limit, or if no rival has two more places than it.
                rivals = [s for s in before if s.kind is source.kind]
                assert before[source] >= SHARES.most(source) or all(
                    before[rival] < before[source] + 2 for rival in rivals
                )
                continue
            own.append(now)
            if taken.displaced is not None:
                loser = next(s for s, mine in holders.items() if taken.displaced in mine)
                holders[loser].remove(taken.displaced)
                others = sum(len(mine) for s, mine in holders.items() if s.kind is loser.kind)
                assert loser.kind is source.kind or others >= SHARES.reserved[loser.kind]
        elif own:
            match step:
                case "leave":
                    assert places.leave(own.pop())
                case "firm":
                    places.firm(own[-1])
                case _:
                    places.loosen(own[0], now * 0.5)
        counts = {kind: sum(len(m) for s, m in holders.items() if s.kind is kind) for kind in Kind}
        assert len(places) == sum(counts.values()) <= SHARES.total
        assert all(len(mine) <= SHARES.most(s) for s, mine in holders.items())
        most = {kind: max((len(m) for s, m in holders.items() if s.kind is kind), default=0) for kind in Kind}
        assert {kind: places._top[kind] for kind in Kind} == most
        kept = sum(max(counts[kind], SHARES.reserved[kind]) for kind in Kind)
        assert kept <= SHARES.total
