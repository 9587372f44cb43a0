"""The whole node over a scripted chain: its guarantees under outages, reorgs and failures."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.memory_device import MemoryDevice
from tests.scripted import IDENTITY, ScriptedChain, grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    Revoked,
    Transferred,
)
from dstack_vpn.core.model import Endpoint, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.observe.events import Decided
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError


def own_grant(token: int = 0) -> Granted:
    return Granted(token, "0xme", "node-0", derive(OWN))


async def test_a_mint_makes_a_peer_and_a_revoke_takes_it_away(bench: Bench) -> None:
    bench.chain.mine(own_grant(), grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        bench.source.tell(bench.chain.mine(grant(2)))
        await eventually(lambda: bench.tokens() == {1, 2})
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == {2})
        assert RemovePeer(key(2)) not in bench.device.applied
    assert bench.link.kept is False


async def test_our_own_token_gives_the_interface_its_addresses(bench: Bench) -> None:
    bench.chain.mine(own_grant(7))
    async with bench.running():
        await eventually(lambda: bench.link.settings and bench.link.settings.addresses)
        assert bench.link.settings is not None
        assert bench.link.settings.addresses == bench.node.tunnel.members.addresses.allowed_ips(7)
        assert "10.77.0.8/32" in (bench.link.settings.addresses or ())
        assert "10.77.0.0/16" in bench.link.settings.routes
        assert bench.component("membership") == "ok: "


async def test_who_is_on_the_network_again_begins_new_sessions(bench: Bench) -> None:
    """The other members have ended the old sessions; WireGuard would take 15 s to detect that."""
    bench.policy = PeerPolicy({"node-1": PeerEndpoint.parse("192.0.2.1:51820", local=True)})
    bench.chain.mine(own_grant(7), grant(1))
    async with bench.running():
        await eventually(
            lambda: bench.tokens() == {1} and bench.link.settings and bench.link.settings.addresses
        )
        bench.source.tell(bench.chain.mine(Revoked(7)))
        await eventually(lambda: bench.link.settings and not bench.link.settings.addresses)
        assert RemovePeer(key(1)) not in bench.device.applied
        bench.source.tell(bench.chain.mine(own_grant(8)))
        await eventually(lambda: RemovePeer(key(1)) in bench.device.applied)
        # A handshake is initiated as well: a peer that began a session before the removal would not
        # know.
        await eventually(lambda: SetPeer(key(1), keepalive=25) in bench.device.applied)
        await eventually(lambda: bench.tokens() == {1})
        assert bench.link.settings is not None
        assert bench.link.settings.addresses == bench.node.tunnel.members.addresses.allowed_ips(8)


async def test_a_key_rotation_removes_the_old_key_before_the_new_one_comes(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        before = len(bench.device.applied)
        bench.source.tell(bench.chain.mine(KeyUpdated(1, key(40))))
        await eventually(lambda: set(bench.device.peers) == {key(40)})
        changes = bench.device.applied[before:]
        assert [type(change) for change in changes] == [RemovePeer, SetPeer]


async def test_a_transfer_suspends_the_key_until_the_new_holder_sets_one(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        bench.source.tell(bench.chain.mine(Transferred(1, "0xnew")))
        await eventually(lambda: bench.tokens() == set())
        bench.source.tell(bench.chain.mine(KeyUpdated(1, key(50))))
        await eventually(lambda: set(bench.device.peers) == {key(50)})


async def test_a_reorg_takes_a_mint_back(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        bench.source.tell(bench.chain.mine(grant(2)))
        await eventually(lambda: bench.tokens() == {1, 2})
        bench.chain.rewind(1)
        bench.source.tell(bench.chain.mine())
        await eventually(lambda: bench.tokens() == {1})
        assert bench.node.chain.state.reorgs == 1


async def test_an_outage_keeps_the_peers_and_what_was_missed_is_caught_up(bench: Bench) -> None:
    bench.chain.mine(own_grant(), grant(1), grant(2))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1, 2})
        bench.source.fail()
        await eventually(lambda: not bench.health().healthy)
        assert "hung up" in bench.component("chain") or "down" in bench.component("chain")
        assert bench.health().ready
        bench.chain.mine(Revoked(1))
        bench.chain.mine(grant(3))
        assert bench.tokens() == {1, 2}
        bench.source.up = True
        await eventually(lambda: bench.tokens() == {2, 3})
        await eventually(lambda: bench.health().healthy)


async def test_an_adopted_interface_keeps_its_peers_until_the_registry_is_known(bench: Bench) -> None:
    device = MemoryDevice()
    await device.apply([SetPeer(key(9), allowed_ips=frozenset({"10.77.0.99/32"}))])
    bench.link.device = device
    bench.source.up = False
    async with bench.running() as node:
        await eventually(node.tunnel.up.is_set)
        await node.reconciler.repair()
        assert set(device.peers) == {key(9)}
        assert bench.link.settings is not None
        assert bench.link.settings.addresses is None
        bench.source.up = True
        await eventually(lambda: set(device.peers) == set())


async def test_a_restart_without_a_chain_brings_back_final_members_less_the_revoked(bench: Bench) -> None:
    bench.chain.mine(grant(1), grant(2))
    bench.resync_interval = 0.02
    bench.source.final = 1
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1, 2})
        bench.source.tell(bench.chain.mine(grant(3)))
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == {2, 3})
        saved = bench.store
        await eventually(lambda: saved.saved is not None and len(saved.saved.events) == 2)
    again = Bench(chain=bench.chain, store=bench.store)
    again.source.up = False
    async with again.running():
        # Token 3 was not final yet, so it waits for the chain. Token 1 was revoked: it stays out,
        # final or not.
        await eventually(lambda: again.tokens() == {2})
        assert again.component("registry").startswith("warning: members are from the state directory")
        assert again.health().ready
        again.source.up = True
        await eventually(lambda: again.tokens() == {2, 3})
        await eventually(lambda: not again.node.members.stale)


async def test_an_adopted_peer_that_was_not_final_stays_without_a_chain(bench: Bench) -> None:
    bench.keep_interface, bench.resync_interval = True, 0.02
    bench.source.final = 1
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        bench.source.tell(bench.chain.mine(grant(2), grant(3)))
        await eventually(lambda: bench.tokens() == {1, 2, 3})
        await eventually(lambda: bench.store.saved is not None and len(bench.store.saved.events) == 2)
    device = bench.device
    device.applied.clear()
    await device.apply([RemovePeer(key(2)), SetPeer(key(9), allowed_ips=frozenset({"10.77.0.99/32"}))])
    again = Bench(chain=bench.chain, store=bench.store, link=bench.link)
    again.source.up = False
    async with again.running() as node:
        await eventually(node.reconciler.filled.is_set)
        assert again.tokens() == {1, 3}, "token 2 comes from the store only, and was not final"
        again.source.up = True
        await eventually(lambda: again.tokens() == {1, 2, 3})
    assert RemovePeer(key(1)) not in device.applied
    assert RemovePeer(key(3)) not in device.applied


async def test_another_chain_is_refused_and_changes_no_peer(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        await eventually(lambda: bench.store.saved is not None)
    again = Bench(chain=ScriptedChain(), store=bench.store)
    again.source.identity = replace(IDENTITY, genesis_hash="0x" + "00" * 32)
    async with again.running():
        await eventually(lambda: "another chain, or a wiped one" in again.component("chain"))
        assert again.tokens() == {1}


async def test_the_store_of_another_registry_is_left_alone(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        await eventually(lambda: bench.store.saved is not None)
    other = Bench(store=bench.store)
    other.source.identity = replace(IDENTITY, contract="0x" + "ef" * 20)
    other.source.up = False
    other.registry = (IDENTITY.chain_id, other.source.identity.contract)
    async with other.running() as node:
        await eventually(node.tunnel.up.is_set)
        assert other.tokens() == set()
        other.source.up = True
        other.source.tell(other.chain.mine(grant(2)))
        await eventually(lambda: other.tokens() == {2})


async def test_mass_removal_waits_for_a_second_reading(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running():
        await eventually(lambda: len(bench.tokens()) == 8)
        honest = ScriptedChain()
        honest.mine(*(grant(token) for token in range(1, 9)))
        bench.source.second = honest
        bench.source.tell(bench.chain.mine(*(Revoked(token) for token in range(1, 7))))
        await eventually(lambda: len(bench.node.reconciler.removal_guard.held) == 6)
        assert len(bench.tokens()) == 8
        assert not bench.health().healthy
        await eventually(lambda: bench.source.seconds >= 1)
        assert len(bench.tokens()) == 8, "the other endpoint still has them"


async def test_a_confirmed_mass_removal_is_carried_out_at_once(bench: Bench) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    async with bench.running():
        await eventually(lambda: len(bench.tokens()) == 8)
        bench.source.tell(bench.chain.mine(*(Revoked(token) for token in range(1, 7))))
        await eventually(lambda: bench.tokens() == {7, 8}, timeout=2.0)
        assert bench.source.seconds == 1
        await eventually(lambda: not bench.node.reconciler.removal_guard.held)


async def test_one_refused_peer_keeps_nobody_else_out(bench: Bench) -> None:
    async with bench.running():
        await eventually(bench.node.tunnel.up.is_set)
        bench.device.fail_change(2)
        bench.source.tell(bench.chain.mine(grant(1), grant(2), grant(3)))
        await eventually(lambda: bench.tokens() == {1, 2, 3})
        await eventually(lambda: bench.node.reporter.collect().device.problem is None)


async def test_a_device_that_vanishes_is_set_up_again_with_all_its_peers(bench: Bench) -> None:
    bench.chain.mine(own_grant(), grant(1), grant(2))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1, 2})
        bench.link.fail_starts = 1
        bench.device.vanish()
        await eventually(lambda: bench.link.starts == 2 and bench.tokens() == {1, 2})
        assert bench.device.listen_port == 51820
        await eventually(lambda: bench.health().healthy)


async def test_an_edit_behind_our_back_is_repaired_by_the_audit(bench: Bench) -> None:
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == {1, 2})
        await bench.device.apply(
            [RemovePeer(key(1)), SetPeer(key(77), allowed_ips=frozenset({"10.77.0.3/32"}))]
        )
        node.reconciler.request_repair()
        await eventually(lambda: set(bench.device.peers) == {key(1), key(2)} and bench.tokens() == {1, 2})


async def test_an_event_that_was_never_sent_is_found_by_the_audit(bench: Bench) -> None:
    bench.resync_interval = 0.05
    async with bench.running():
        await eventually(bench.node.tunnel.up.is_set)
        head, *_ = bench.chain.mine(grant(1))
        bench.source.tell([head])
        await eventually(lambda: bench.tokens() == {1})


async def test_several_logs_of_one_block_are_one_reading_of_their_token(bench: Bench) -> None:
    bench.source.rereads = frozenset({Transferred})
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        before = len(bench.source.calls)
        bench.source.tell(bench.chain.mine(*[Transferred(1, "0xnew")] * 3))
        await eventually(lambda: bench.tokens() == set())
        bench.source.tell(bench.chain.mine(KeyUpdated(1, key(50))))
        await eventually(lambda: set(bench.device.peers) == {key(50)})
        assert bench.source.calls[before:] == ["read_tokens"]


async def test_where_logs_are_not_announced_those_of_every_head_are_fetched(bench: Bench) -> None:
    bench.source.announces_logs = False
    async with bench.running():
        await eventually(bench.follows)
        head, *_ = bench.chain.mine(grant(1))
        bench.source.tell([head])
        await eventually(lambda: bench.tokens() == {1})
        head, *_ = bench.chain.mine(grant(2))
        bench.source.tell([head])
        await eventually(lambda: bench.tokens() == {1, 2})


async def test_a_block_between_two_sessions_is_fetched_with_its_logs(bench: Bench) -> None:
    """The head extends our tip like any other, but the logs of its block were never announced."""
    async with bench.running():
        await eventually(bench.follows)
        bench.source.fail()
        await eventually(lambda: not bench.follows())
        bench.chain.mine(grant(1))
        bench.source.up = True
        await eventually(lambda: bench.tokens() == {1})


async def test_a_block_between_the_first_look_and_the_subscription_is_fetched(bench: Bench) -> None:
    bench.source.late = [grant(1)]
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})


async def test_a_contract_that_cannot_enumerate_is_read_from_its_logs(bench: Bench) -> None:
    bench.source.enumerates = False
    bench.source.rereads = frozenset({Granted})
    bench.resync_interval = 0.05
    bench.chain.mine(grant(1))
    bench.chain.mine(grant(2), Revoked(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {2})
        bench.source.tell(bench.chain.mine(grant(3)))
        await eventually(lambda: bench.tokens() == {2, 3})
        head, *_ = bench.chain.mine(grant(4))
        bench.source.tell([head])
        await eventually(lambda: bench.tokens() == {2, 3, 4})


async def test_a_token_is_read_again_where_its_event_leaves_something_open(bench: Bench) -> None:
    bench.source.rereads = frozenset({Granted})
    async with bench.running():
        await eventually(lambda: bench.node.members.synced)
        bench.chain.uris[1] = PeerEndpoint.parse("192.0.2.7:51820")
        calls = len(bench.source.calls)
        bench.source.tell(bench.chain.mine(grant(1)))
        await eventually(lambda: bench.device.peers and bench.device.peers[key(1)].endpoint is not None)
        assert bench.device.peers[key(1)].endpoint == SocketAddress("192.0.2.7", 51820)
        assert bench.source.calls[calls:] == ["read_tokens"]


async def test_host_names_are_resolved_aside_and_followed(bench: Bench) -> None:
    bench.policy = PeerPolicy(template="{node_id}.vpn.internal:51820")
    async with bench.running() as node:
        await eventually(node.tunnel.up.is_set)
        bench.source.tell(bench.chain.mine(grant(1)))
        await eventually(lambda: bench.tokens() == {1})
        assert bench.device.peers[key(1)].endpoint is None
        bench.resolver.names["node-1.vpn.internal"] = "192.0.2.1"
        endpoint = Endpoint("node-1.vpn.internal", 51820)
        node.resolver.book.refresh([endpoint])
        await eventually(lambda: bench.device.peers[key(1)].endpoint == SocketAddress("192.0.2.1", 51820))
        bench.resolver.names["node-1.vpn.internal"] = "192.0.2.2"
        node.resolver.book.refresh([endpoint])
        await eventually(lambda: bench.device.peers[key(1)].endpoint == SocketAddress("192.0.2.2", 51820))


async def test_an_endpoint_on_chain_changes_nothing_but_the_endpoint(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
        before = len(bench.device.applied)
        bench.source.tell(bench.chain.mine(EndpointUpdated(1, PeerEndpoint.parse("192.0.2.9:1"))))
        await eventually(lambda: bench.device.peers[key(1)].endpoint is not None)
        changes = bench.device.applied[before:]
        # The handshake initiation that follows turns a keepalive on and off.
        assert changes[0] == SetPeer(key(1), SocketAddress("192.0.2.9", 1))
        assert all(isinstance(change, SetPeer) and change.allowed_ips is None for change in changes)


async def test_access_that_expires_ends_by_itself(bench: Bench) -> None:
    async with bench.running() as node:
        await eventually(node.tunnel.up.is_set)
        end = int(node.tunnel.clock.now()) + 1
        bench.source.tell(bench.chain.mine(grant(1), grant(2), ExpiryUpdated(1, end)))
        await eventually(lambda: 2 in bench.tokens())
        await eventually(lambda: bench.tokens() == {2})
        assert node.tunnel.clock.now() >= end


async def test_grants_wait_for_confirmations_and_revocations_do_not(bench: Bench) -> None:
    bench.confirmations = 2
    async with bench.running() as node:
        await eventually(node.tunnel.up.is_set)
        bench.source.tell(bench.chain.mine(grant(1)))
        bench.source.tell(bench.chain.mine())
        await eventually(lambda: node.tunnel.members.follower.tip == bench.chain.head)
        assert bench.tokens() == set()
        bench.source.tell(bench.chain.mine())
        await eventually(lambda: bench.tokens() == {1})
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == set())
        decided = [entry.event for entry in node.event_log.latest() if isinstance(entry.event, Decided)]
        assert [(each.granted, each.reason.partition(" (")[0]) for each in decided] == [
            (False, "unconfirmed"),
            (True, "active"),
            (False, "revoked"),
        ]


async def test_an_expiry_and_a_pin_are_recorded(bench: Bench) -> None:
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: bench.archive.text.count("[Peer]") == 2)
        bench.source.tell(bench.chain.mine(ExpiryUpdated(1, int(node.tunnel.clock.now()) + 1)))
        await eventually(lambda: bench.tokens() == {2})
        await eventually(lambda: bench.archive.text.count("[Peer]") == 1)
        bench.archive.pin = bench.archive.text
        await eventually(lambda: bench.node.members.membership.pinned)
        bench.source.tell(bench.chain.mine(grant(3)))
        await eventually(lambda: node.tunnel.members.decisions.answer(3) is Reason.PINNED_OUT)
        decided = [entry.event for entry in node.event_log.latest() if isinstance(entry.event, Decided)]
        assert [(each.token, each.granted, each.reason) for each in decided] == [
            (1, True, "active"),
            (2, True, "active"),
            (1, False, "expired"),
            (3, False, "not in the pinned configuration"),
        ]


async def test_a_pin_holds_the_peers_but_never_what_was_revoked(bench: Bench) -> None:
    bench.chain.mine(grant(1), grant(2))
    async with bench.running():
        await eventually(lambda: bench.archive.text.count("[Peer]") == 2)
        bench.archive.pin = bench.archive.text
        await eventually(lambda: bench.node.members.membership.pinned)
        bench.source.tell(bench.chain.mine(grant(3), Revoked(1)))
        await eventually(lambda: bench.tokens() == {2})
        assert bench.component("registry").startswith("warning: pinned")
        bench.archive.pin = None
        await eventually(lambda: bench.tokens() == {2, 3})


async def test_a_wrong_own_key_is_said(bench: Bench) -> None:
    bench.chain.mine(Granted(0, "0xme", "node-0", key(99)))
    async with bench.running():
        await eventually(lambda: "another public key than ours" in bench.component("membership"))
        assert not bench.health().healthy


async def test_a_task_that_fails_ends_the_node(bench: Bench) -> None:
    node = bench.build()

    async def broken() -> None:
        await asyncio.sleep(0)

    try:
        await node.run(asyncio.Event(), {"broken": broken})
    except BaseExceptionGroup as group:
        assert group.subgroup(DeviceError) is not None
    else:
        raise AssertionError("a task that ends must be a failure")


async def test_a_task_that_drops_its_cancellation_does_not_keep_a_failed_node_running(bench: Bench) -> None:
    """TaskGroups of Python 3.11 and 3.12 do this if a child fails at the same moment."""
    node, started = bench.build(), asyncio.Event()

    async def deaf() -> None:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def broken() -> None:
        await started.wait()
        raise RuntimeError("a fault of ours")

    async with asyncio.timeout(3):
        with pytest.raises(ExceptionGroup) as caught:
            await node.run(asyncio.Event(), {"deaf": deaf, "broken": broken})
    assert caught.value.subgroup(RuntimeError) is not None


async def test_an_end_that_meets_a_failing_session_is_an_end_all_the_same(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    node, stop = bench.build(), asyncio.Event()
    running = asyncio.create_task(node.run(stop, {}))  # noqa: TID251 - ended below, whatever happens
    await eventually(lambda: bench.tokens() == {1})
    # Both happen in one turn of the event loop: the session's failure is pending when the
    # cancellation comes.
    bench.source.fail()
    stop.set()
    async with asyncio.timeout(3):
        await running
    assert bench.link.kept is False
