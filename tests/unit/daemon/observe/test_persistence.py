"""A store and pins that cannot be written or read."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from tests.scripted import MemoryStore, grant, key
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.chain.events import KeyUpdated, LoggedEvent, Revoked
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.wireguard.config_file import ConfPeer, render_peer
from dstack_vpn.daemon.observe import persistence
from dstack_vpn.errors import StoreError


@dataclass
class _FullStore(MemoryStore):
    full: bool = False

    async def append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        if self.full:
            raise StoreError("the disk is full")
        await MemoryStore.append(self, tip, added, dropped, synced)


async def test_what_the_store_refused_is_written_once_it_can_be(bench: Bench) -> None:
    bench.store = store = _FullStore()
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: store.saved)
        store.full = True
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: "disk is full" in bench.component("store"))
        await node.persistence._attempt("config", node.persistence.read_pin())
        assert "disk is full" in bench.component("store"), (
            "another file that is well says nothing of this one"
        )
        store.full = False
        bench.source.tell(bench.chain.mine(grant(3)))
        await eventually(lambda: bench.component("store") == "ok: ")
        assert store.saved is not None
        assert Revoked(1) in [logged.event for logged in store.saved.events]


async def test_only_the_sections_of_changed_peers_are_rendered_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[TokenId | None] = []

    def counted(entry: ConfPeer) -> str:
        rendered.append(entry.token_id)
        return render_peer(entry)

    monkeypatch.setattr(persistence, "render_peer", counted)
    bench.chain.mine(grant(1), grant(2), grant(3))
    async with bench.running():
        await eventually(lambda: bench.archive.text.count("[Peer]") == 3)
        before = bench.archive.text
        bench.source.tell(bench.chain.mine(Revoked(1), KeyUpdated(2, key(9))))
        await eventually(lambda: str(key(9)) in bench.archive.text and "(token 1)" not in bench.archive.text)
    assert sorted(rendered, key=str) == [1, 2, 2, 3]
    sections = before.split("\n\n")
    assert bench.archive.text.split("\n\n")[0] == sections[0]
    assert bench.archive.text.split("\n\n")[-1] == sections[-1]


async def test_a_pin_that_cannot_be_read_goes_on_being_a_problem(bench: Bench) -> None:
    bench.archive.pin = "nonsense"
    async with bench.running() as node:
        await eventually(lambda: "pinned" in bench.component("store"))
        with pytest.raises(StoreError):
            await node.persistence.read_pin()
