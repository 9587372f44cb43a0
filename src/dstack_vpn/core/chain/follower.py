"""The chain follower: a state machine that turns an endpoint's data into changes of the registry.

Its input are facts (`bootstrapped`, `receive`, `fetched`, `state_read`), its output commands: the
next fetches, and the new state of the registry. It never waits, reads a clock or does I/O.

Rules for a correct state:

* A *ring* holds the hashes of the followed chain's recent blocks. A head extends it only if its
  parent is our tip. Any other head (a gap, a fork, a reconnect) starts a *walk*: find the newest
  common block with the chain, fetch the logs above it, and only then drop the old fork's events and
  add the new fork's, in one step. So a mint that a reorg moves to another block is never removed in
  between.
* A walk ends at a head whose header is confirmed after its logs were fetched, because endpoints
  answer ``[]`` for blocks that they don't have.
* A head extends the ring directly only if its logs are announced as well. Below the first head of a
  subscription, and without subscriptions, a walk fetches a head's logs.
* A log of the next block is applied on arrival, before its head. A log of one of our blocks is
  inserted at its position. Any other log waits for its block; the number of waiting logs is
  bounded.
* ``removed: true`` is a hint to fetch the head, and not required: some endpoints never send it.
* If heads are polled instead of announced, a poll usually shows an `Extension` of our tip. The tip
  jumps to its head if the logs above our tip are announced, or if the contract's revision shows
  that there are none. Any other polled head starts a walk. If our tip is on its chain and no event
  is above the tip, the tip *jumps* to that head.
* If heads are polled, a log is applied on arrival: of a block above our tip, of one that a jump has
  skipped, and during a walk. A walk fetches only the logs above the common block.

    state        on                     does
    following    head on our tip        extend the ring, apply the logs that waited for it; or, if
                                        logs are not announced, -> fetching, with it as the target
    following    known head             nothing
    following    head after a gap       -> searching, with that head as the target
    following    head of a fork         -> aiming: fetch the latest head, to take the whole branch
                                        in one walk
    aiming       known head             -> following: the endpoint was behind, nothing has changed
    aiming       any other head         -> searching, with that head as the target
    searching    header at our height   narrow the search; common block found -> fetching; common
                                        block below the settled one, or missing -> `Reload`
    searching    polled head, and our   jump to it -> following, if no event is above our tip
                 tip is common
    searching    target below our tip   and none of our blocks differs -> following: the endpoint is
                                        behind (target below the settled block, if an endpoint has
                                        moved the tip since the restore)
    fetching     logs above the common  -> confirming: fetch the target's header again
    confirming   the target's header    replace the events above the common block -> following
    confirming   another header         -> aiming, a bounded number of times, then `Leave`
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.chain.block_hashes import LENGTH, BlockHashes
from dstack_vpn.core.chain.commands import (
    Advanced,
    Command,
    Fetch,
    FetchEvents,
    FetchHead,
    FetchHeader,
    Leave,
    Reload,
)
from dstack_vpn.core.chain.contract import CONTRACT
from dstack_vpn.core.chain.events import LoggedEvent, OwnerKeyUpdated, Reading, token_of
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.chain.fork_search import ForkSearch
from dstack_vpn.core.chain.history import EventHistory, observed_at
from dstack_vpn.core.chain.registry import Registry, contradicts
from dstack_vpn.core.model import BlockRef, TokenId

WAITING: Final = 4096
"""Logs that may wait for their block. Any more are discarded, and fetched by a walk."""
NEXT: Final = 64
"""Heads that are kept during a walk: the highest ones."""
AHEAD: Final = 8192
"""Blocks above our tip from which a log is applied before its head, if heads are polled."""
RESTARTS: Final = 8
"""Restarts of walks, because an endpoint contradicts itself, after which it is left."""


@dataclass(slots=True)
class Follower:
    """The follower of one chain; `registry` is the chain's state at `tip`."""

    timeline: EventHistory = field(default_factory=EventHistory)
    tip: BlockRef | None = None
    settled: BlockRef | None = None
    """The block of the timeline's base: all up to it is final, or was read as one state."""
    reload_above: int | None = None
    """A gap of more blocks than this leads to `Reload`, if reading the state is cheaper."""
    announced_above: int | None = -1
    """The logs of blocks above this height are announced, all others have to be fetched.

    None: no logs are announced.
    """
    polled: bool = False
    """Heads are polled: only logs are announced."""
    _ring: BlockHashes = field(default_factory=BlockHashes)
    _passed: BlockHashes = field(default_factory=BlockHashes)
    """Our former tips from which the tip has jumped. Only comparisons with readings use them."""
    _doubtful: set[LoggedEvent] = field(default_factory=set)
    """Events above a head that was polled after they were announced: their blocks may be gone."""
    _waiting: dict[str, list[LoggedEvent]] = field(default_factory=dict)
    _next: dict[int, BlockRef] = field(default_factory=dict)
    _walk: ForkSearch | None = None
    _restarts: int = 0
    _overflow: bool = False
    _caught_up: bool = False
    """An endpoint has moved our tip since the restore.

    A lower head then does not mean that the endpoint is behind, unless it is below the settled
    block.
    """

    @property
    def registry(self) -> Registry:
        """Return the registry at the tip, with the logs of the next block that are already here."""
        return self.timeline.state

    @property
    def walking(self) -> bool:
        """Return whether a search for the newest common block is under way."""
        return self._walk is not None

    @property
    def is_complete(self) -> bool:
        """Return whether no walk is under way, and no event or log is above our tip."""
        if self.tip is None or self._walk is not None or self._doubtful:
            return False
        return self._is_highest(self.tip)

    def open_tokens(self) -> set[TokenId]:
        """Return the tokens that the logs of blocks above our tip affect, or `CONTRACT`."""
        found: set[TokenId] = set()
        for logged in self.timeline.events:
            if self.tip is not None and logged.block_number > self.tip.number:
                event = logged.event
                if isinstance(event, OwnerKeyUpdated):
                    found |= self.registry.with_owner(event.owner)
                else:
                    token = token_of(event)
                    found.add(CONTRACT if token is None else token)
        return found

    @property
    def newest(self) -> BlockRef | None:
        """Return the newest block that can be read: our tip, or the block of an announced event.

        The latter has only number and hash.
        """
        events = self.timeline.events
        if not self.polled or self.tip is None or not events:
            return self.tip
        last = events[-1]
        is_above = last.block_number > self.tip.number
        return BlockRef(last.block_number, last.block_hash, "", 0) if is_above else self.tip

    def stands_on(self, block: BlockRef) -> bool:
        """Return whether that block, by hash, is part of the followed chain."""
        if self.polled and any(x.block_hash == block.hash for x in self.timeline.events):
            return True
        return self.hash_at(block.number) == block.hash

    def hash_at(self, number: int) -> str | None:
        """Return our block's hash at that height, or None if it is not kept."""
        return self._ring.get(number) or self._passed.get(number)

    def restore(
        self, base: Registry, settled: BlockRef, events: Iterable[LoggedEvent], tip: BlockRef
    ) -> None:
        """Start from the stored state: a final base, the events above it, and the tip."""
        self.timeline = EventHistory(base)
        self.timeline.insert(event for event in events if _is_above(settled, event))
        # A log of the next block may have been stored before its head: that block is not ours yet.
        below = (event for event in self.timeline.events if event.block_number <= tip.number)
        self._ring = BlockHashes((event.block_number, event.block_hash) for event in below)
        self._ring |= {settled.number: settled.hash, tip.number: tip.hash}
        self._passed.clear()
        self.abandon()
        self.settled, self.tip, self._caught_up = settled, tip, False

    def subscribed_from(self, height: int | None, *, polled: bool = False) -> None:
        """Set the height above which blocks' logs are announced; None: no logs are announced.

        ``polled``: heads are not announced.
        """
        self.announced_above, self.polled = height, polled

    def bootstrapped(self, base: Registry, at: BlockRef, *, reload_above: int | None = None) -> None:
        """Start from a state that was read after the block ``at``."""
        self.reload_above = reload_above or self.reload_above
        self.restore(base, at, [], at)
        self._caught_up = True

    def abandon(self) -> None:
        """Discard pending fetches and all that waits for them: the session ended."""
        self._walk = None
        self._restarts = 0
        self._waiting.clear()
        self._next.clear()
        self._doubtful.clear()

    # -- facts -------------------------------------------------------------------------------------

    def receive(self, fact: BlockRef | LoggedEvent) -> list[Command]:
        """Process a head or a log that the endpoint sent by itself."""
        if self.tip is None:
            return [Reload("nothing is known yet")]
        if isinstance(fact, BlockRef):
            if self.polled:
                self._doubtful.update(x for x in self.timeline.events if x.block_number > fact.number)
            return self._head(fact, self.tip)
        return self._removed(fact) if fact.removed else self._log(fact, self.tip)

    def extended(self, found: Extension, *, unchanged: bool | None) -> list[Command]:
        """Process a chain that still has our tip.

        ``unchanged`` is whether the contract has not changed above it, up to the new head at least.
        None: that is not known. The logs of a change are fetched up to the latest block. Other logs
        are fetched up to the new head if they are not announced.
        """
        tip, head = self.tip, found.head
        if tip is None or not self.is_complete or found.known.hash != tip.hash or head.number <= tip.number:
            return []
        if unchanged or (unchanged is None and self._announces(tip)):
            return [self._jump(head, tip)]
        if unchanged is False:
            self._walk = ForkSearch(None, changed=True)
            return [FetchHead()]
        self._walk = ForkSearch(head)
        self._walk.aim(head, self._ring)
        self._walk.narrow(tip.number, equal=True)
        return [FetchEvents(tip.number + 1, head)]

    def fetched(self, fetch: Fetch, result: BlockRef | list[LoggedEvent] | None) -> list[Command]:
        """Process the result of a fetch. Results that no walk waits for are ignored."""
        walk = self._walk
        if self.tip is None or walk is None:
            return []
        match fetch, result:
            case FetchHead(), BlockRef() if walk.target is None:
                return self._aimed(walk, result, self.tip)
            case FetchHeader(number), BlockRef() | None if walk.events is not None:
                return self._confirmed(walk, result)
            case FetchHeader(number), BlockRef() | None if walk.target is not None:
                walk.narrow(number, equal=result is not None and result.hash == self._ring.get(number))
                return self._search(walk)
            case FetchEvents(), None if walk.target is not None:
                return self._restarted()
            case FetchEvents(), list() if walk.target is not None:
                walk.events = result
                return [FetchHeader(walk.target.number)]
            case _:
                return []

    def state_read(self, at: BlockRef, observed: Iterable[Reading]) -> list[Command]:
        """Process states that were read after the block ``at``."""
        if not self.stands_on(at) or self.tip is None:
            return []  # read on a fork, or ahead of us: the next resync repeats it
        before = self.registry
        events = [observed_at(at.number, at.hash, x) for x in observed if contradicts(before, x)]
        added = self.timeline.insert(events)
        if self.registry != before:
            return [self._advanced(self.tip, added)]
        # They agree with our state, or concern what later events changed.
        self.timeline.drop_above(at.number - 1, lambda x: x not in added)
        return []

    def settle(self, final: BlockRef) -> bool:
        """Make blocks up to ``final`` permanent; returns False if it is not one of our blocks."""
        if self.tip is None or self._walk is not None:
            return False  # a walk needs blocks that this would forget
        if final.number > self.tip.number or not self._ring.settle(final):
            return False
        self.timeline.settle(final.number)
        self.settled = final
        return True

    # -- heads and logs ----------------------------------------------------------------------------

    def _head(self, head: BlockRef, tip: BlockRef) -> list[Command]:
        if self._ring.get(head.number) == head.hash:
            return self._undo(tip) if head == tip else []
        if self._walk is not None:
            self._next[head.number] = head
            if len(self._next) > NEXT:
                del self._next[min(self._next)]
            return []
        if self._extends(head, tip):
            return [self._extend(head)]
        is_next = head.number == tip.number + 1 and head.parent_hash == tip.hash
        if head.number <= tip.number + 1 and not is_next:
            self._walk = ForkSearch(None)
            return [FetchHead()]
        self._overflow = False
        self._walk = ForkSearch(head)
        return self._aimed(self._walk, head, tip)

    def _extend(self, head: BlockRef) -> Advanced:
        dropped = self._drop_between(head.number - 1, head, lambda x: x.block_hash == head.hash)
        added = self.timeline.insert(self._waiting.pop(head.hash, ()))
        self._stand_on(head)
        return self._advanced(head, added, dropped)

    def _may_jump(self, walk: ForkSearch) -> bool:
        """Return whether a walk may end without the logs above the common block.

        That block is our tip, and an event above it would have been announced.
        """
        tip = self.tip
        if tip is None or walk.target is None or walk.changed or not self._announces(tip):
            return False
        return self._is_highest(tip) and walk.common == tip.number and walk.target.number > tip.number

    def _is_highest(self, tip: BlockRef) -> bool:
        """Return whether no event or log is above our tip."""
        return not (self._waiting or self._overflow) and self.timeline.is_within(tip.number)

    def _announces(self, tip: BlockRef) -> bool:
        """Return whether the events above our tip are announced, and heads are polled."""
        return self.polled and self.announced_above is not None and tip.number >= self.announced_above

    def _jump(self, head: BlockRef, tip: BlockRef) -> Advanced:
        if self.settled is None or tip.number != self.settled.number:
            del self._ring[tip.number]
        self._passed[tip.number] = tip.hash
        while len(self._passed) > LENGTH:
            del self._passed[min(self._passed)]
        self._stand_on(head)
        return self._advanced(head, ())

    def _advanced(
        self,
        tip: BlockRef,
        added: Iterable[LoggedEvent],
        dropped: Iterable[LoggedEvent] = (),
        reorg_depth: int = 0,
    ) -> Advanced:
        touched = self.timeline.touched()
        return Advanced(tip, self.registry, touched, tuple(added), tuple(dropped), reorg_depth)

    def _stand_on(self, head: BlockRef) -> None:
        self.tip, self._caught_up = head, True
        self._ring[head.number] = head.hash
        while len(self._ring) > LENGTH:
            del self._ring[min(self._ring)]
        self._waiting = {x: logs for x, logs in self._waiting.items() if logs[0].block_number > head.number}

    def _log(self, log: LoggedEvent, tip: BlockRef) -> list[Command]:
        if self.settled is not None and log.block_number <= self.settled.number:
            return []  # the base includes it, and all that came after it
        ours = self._ring.get(log.block_number) == log.block_hash
        if ours or self._is_awaited(log, tip):
            added = self.timeline.insert([log])
            return [self._advanced(tip, added)] if added else []
        if sum(map(len, self._waiting.values())) < WAITING:
            self._waiting.setdefault(log.block_hash, []).append(log)
        else:
            self._overflow = True  # the next head counts as a gap, so its logs are fetched
        return []

    def _is_awaited(self, log: LoggedEvent, tip: BlockRef) -> bool:
        """Return whether a log may be applied before its block is known to be ours."""
        number = log.block_number
        if self.polled:  # also during a walk: it keeps the events that it finds, or that are later
            return number not in self._ring and number <= tip.number + AHEAD
        return self._walk is None and number == tip.number + 1

    def _removed(self, log: LoggedEvent) -> list[Command]:
        """Fetch the head on a hint that a block is not canonical; a hint changes nothing."""
        self._waiting.pop(log.block_hash, None)
        ours = self._ring.get(log.block_number) == log.block_hash
        early = self.polled and any(x.block_hash == log.block_hash for x in self.timeline.events)
        if self._walk is not None or not (ours or early):
            return []
        self._walk = ForkSearch(None)
        return [FetchHead()]

    # -- walks -------------------------------------------------------------------------------------

    def _aimed(self, walk: ForkSearch, target: BlockRef, tip: BlockRef) -> list[Command]:
        if self._ring.get(target.number) == target.hash:
            return self._following()
        gap = target.number - tip.number
        if self.reload_above is not None and gap > self.reload_above:
            self._walk = None
            return [Reload(f"{gap} blocks behind")]
        walk.aim(target, self._ring)
        return self._search(walk)

    def _search(self, walk: ForkSearch) -> list[Command]:
        if walk.high - walk.low > 1 or walk.target is None:
            return [FetchHeader(walk.probe())]
        ours = self.settled if self._caught_up else self.tip
        if ours is not None and walk.target.number < ours.number and not walk.forked:
            return self._following()  # the endpoint is behind us, and must not undo anything
        if walk.high == 0 or (self.settled is not None and walk.common < self.settled.number):
            self._walk = None
            return [Reload("no block above what is settled is on this chain")]
        if self.tip is not None and self._may_jump(walk):
            return [self._jump(walk.target, self.tip), *self._following()]
        return [FetchEvents(walk.common + 1, walk.target)]

    def _confirmed(self, walk: ForkSearch, header: BlockRef | None) -> list[Command]:
        if walk.target is None or walk.events is None or header is None or header.hash != walk.target.hash:
            return self._restarted()
        depth = max(self.tip.number - walk.common, 0) if self.tip else 0
        return [self._adopt(walk.common, walk.target, walk.events, depth), *self._following()]

    def _restarted(self) -> list[Command]:
        """Begin again with the latest head: the target is not on the chain any more."""
        self._restarts += 1
        if self._restarts > RESTARTS:
            return [Leave("its blocks keep changing under a query")]
        self._walk = ForkSearch(None, changed=self._walk is not None and self._walk.changed)
        return [FetchHead()]

    def _adopt(self, common: int, target: BlockRef, events: list[LoggedEvent], depth: int) -> Advanced:
        """Replace all events above the common block, in one step."""
        held, blocks = set(events), {event.block_hash for event in events}
        dropped = self._drop_between(
            common,
            target,
            lambda x: x in held or (isinstance(x.event, Reading) and x.block_hash in blocks),
        )
        added = self.timeline.insert(events)
        self._ring.drop_above(common)
        self._passed.drop_above(common)
        self._ring.update((event.block_number, event.block_hash) for event in events)
        self._stand_on(target)
        # With polled heads, the blocks of announced events may be above our tip.
        depth = max([depth, *(event.block_number - common for event in dropped)])
        return self._advanced(target, added, dropped, depth)

    def _drop_between(
        self, common: int, head: BlockRef, keep: Callable[[LoggedEvent], bool]
    ) -> list[LoggedEvent]:
        """Remove the events above the common block that a new head does not have.

        If heads are polled, the logs of later blocks may already be here.
        """

        def is_later(logged: LoggedEvent) -> bool:
            return self.polled and logged.block_number > head.number and logged not in self._doubtful

        return self.timeline.drop_above(common, lambda x: keep(x) or is_later(x))

    def _undo(self, tip: BlockRef) -> list[Command]:
        """Remove the doubtful events: the chain ends at our tip."""
        doubtful, self._doubtful = self._doubtful, set()
        if self._walk is not None or not doubtful:
            return []
        dropped = self.timeline.drop_above(tip.number, lambda x: x not in doubtful)
        return [self._advanced(tip, (), dropped)] if dropped else []

    def _following(self) -> list[Command]:
        """End the walk: take the heads received during it, and go to the newest if they don't link.

        With one walk for each of them, an endpoint that is slower than its blocks would fall behind
        permanently.
        """
        self._walk, remembered = None, sorted(self._next.items())
        self._next.clear()
        self._doubtful.clear()
        waiting = [head for height, head in remembered if self._ring.get(height) != head.hash]
        commands: list[Command] = []
        for head in waiting:
            if not self._extends(head, self.tip or head):
                return commands + self._head(waiting[-1], self.tip or head)
            commands += [self._extend(head)]
        return commands

    def _extends(self, head: BlockRef, tip: BlockRef) -> bool:
        """Return whether a head follows our tip and its logs are announced."""
        is_next = head.number == tip.number + 1 and head.parent_hash == tip.hash
        announced = self.announced_above is not None and head.number > self.announced_above
        return is_next and announced and not self._overflow


def _is_above(settled: BlockRef, logged: LoggedEvent) -> bool:
    """Return whether a base after that block lacks the event: it is later, or was read after it."""
    is_reading = isinstance(logged.event, Reading)
    return logged.block_number > settled.number - (is_reading and logged.block_hash == settled.hash)
