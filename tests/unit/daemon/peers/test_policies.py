"""A node under a policy: its peers, its packet filter, and the order of their changes."""

from dataclasses import replace

import pytest
from tests.policy_rules import group_of
from tests.scripted import grant, key
from tests.unit.daemon.conftest import Bench, eventually
from tests.unit.daemon.under_policy import (
    DB,
    OPEN,
    WEB,
    WEB_TO_DB,
    db,
    enforced,
    hash_of,
    health,
    inbound,
    policy,
)

from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.chain.events import (
    Granted,
    KeyUpdated,
    PolicyUpdated,
    RegistryEvent,
    Revoked,
    RoutesUpdated,
    TagsUpdated,
    Transferred,
)
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import RemovePeer, SetPeer
from dstack_vpn.core.policy.rules import GroupRights
from dstack_vpn.daemon.device import firewall

__all__ = ["db"]


async def test_only_members_that_a_grant_connects_with_us_are_peers(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        assert enforced(db, 1)
        assert db.node.members.decisions.answer(3) is Reason.NO_GRANT
        assert [right.first for right in inbound(db, 1).inbound] == [5432]
        assert not inbound(db, 1).outbound
        assert health(db) == "ok: "


async def test_a_tag_that_is_withdrawn_takes_the_rights_and_the_peer(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        db.source.tell(db.chain.mine(TagsUpdated(1, 0)))
        await eventually(lambda: db.tokens() == {2})
        await eventually(lambda: not inbound(db, 1))
        db.source.tell(db.chain.mine(TagsUpdated(3, WEB)))
        await eventually(lambda: db.tokens() == {2, 3})
        assert inbound(db, 3)


async def test_our_own_tags_decide_about_all_peers(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        db.source.tell(db.chain.mine(TagsUpdated(0, 0)))
        await eventually(lambda: not db.tokens())
        db.source.tell(db.chain.mine(TagsUpdated(0, WEB | DB)))
        await eventually(lambda: db.tokens() == {1, 2})


async def test_a_policy_that_is_set_and_removed_while_the_node_runs(db: Bench) -> None:
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        assert enforced(db, None)
        db.source.tell(db.chain.mine(policy(db, 1, WEB_TO_DB)))
        await eventually(lambda: enforced(db, 1) and db.tokens() == {1, 2})
        db.source.tell(db.chain.mine(policy(db, 2, OPEN)))
        await eventually(lambda: enforced(db, 2) and db.tokens() == {1, 2, 3})
        db.source.tell(db.chain.mine(policy(db, 3, WEB_TO_DB)))
        await eventually(lambda: enforced(db, 3) and db.tokens() == {1, 2})
        db.source.tell(db.chain.mine(PolicyUpdated(None)))
        await eventually(lambda: enforced(db, None) and db.tokens() == {1, 2, 3})


async def test_rules_come_before_peers_and_removals_before_rules(db: Bench) -> None:
    """A token's address stays the same when its owner changes."""
    db.chain.mine(policy(db, 1, {"src": ["owner:" + "0x" + "1" * 40], "dst": ["*"], "ip": ["*"]}))
    old, new = "0x" + "1" * 40, "0x" + "2" * 40
    db.chain.mine(Granted(5, old, "node-5", key(5)))
    async with db.running():
        await eventually(lambda: db.tokens() == {5})
        order: list[str] = []
        db.firewall.before = lambda: order.append("rules")
        db.device.before = lambda change: order.append(type(change).__name__)
        moved: list[RegistryEvent] = [Transferred(5, new), KeyUpdated(5, key(6))]
        db.source.tell(db.chain.mine(*moved, policy(db, 2, OPEN)))
        await eventually(lambda: db.tokens() == {1, 2, 3, 5} and enforced(db, 2))
        assert order.index(RemovePeer.__name__) < order.index(SetPeer.__name__)
        assert order.index("rules") < order.index(SetPeer.__name__)


async def test_a_policy_that_cannot_be_enforced_leaves_no_peers(db: Bench) -> None:
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        db.firewall.refuse = "no nf_tables"
        db.source.tell(db.chain.mine(policy(db, 1, WEB_TO_DB)))
        await eventually(lambda: not db.tokens())
        assert health(db).startswith("failed: it can't be enforced, so this node has no peers")
        assert db.node.members.decisions.answer(1) is Reason.UNENFORCED
        db.firewall.refuse = None
        await eventually(lambda: db.tokens() == {1, 2} and enforced(db, 1))


async def test_a_node_starts_without_peers_if_the_policy_cannot_be_enforced(db: Bench) -> None:
    db.firewall.refuse = "no nf_tables"
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.node.members.admission.unenforced)
        assert not db.tokens()


@pytest.mark.parametrize("bad", ["{", '{"grants": 1}'])
async def test_a_bad_policy_keeps_the_last_good_one(db: Bench, bad: str) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        db.chain.policies[hash_of(2)] = bad
        db.source.tell(db.chain.mine(PolicyUpdated(hash_of(2))))
        await eventually(lambda: "can't be used" in health(db))
        assert db.tokens() == {1, 2}
        assert enforced(db, 1)
    async with db.running():  # and after a restart
        await eventually(lambda: "can't be used" in health(db))
        await eventually(lambda: db.tokens() == {1, 2})
        assert enforced(db, 1)


async def test_a_node_without_a_good_policy_permits_nothing(db: Bench) -> None:
    db.chain.policies[hash_of(1)] = "{"
    db.chain.mine(PolicyUpdated(hash_of(1)))
    async with db.running():
        await eventually(lambda: "can't be used" in health(db))
        assert health(db).endswith("nothing is permitted")
        assert not db.tokens()


async def test_a_policy_whose_test_fails_waits_for_the_member_that_it_names(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        needs = {"src": "node:node-7", "accept": ["tag:db:tcp:5432"]}
        db.source.tell(db.chain.mine(policy(db, 2, WEB_TO_DB, OPEN, tests=[needs])))
        await eventually(lambda: "node:node-7 names no member" in health(db))
        assert enforced(db, 1)
        db.source.tell(db.chain.mine(grant(7)))
        await eventually(lambda: db.tokens() == {1, 2, 3, 7})
        assert enforced(db, 2)


async def test_a_reorg_brings_the_former_policy_back(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        db.source.tell(db.chain.mine(policy(db, 2, OPEN)))
        await eventually(lambda: db.tokens() == {1, 2, 3})
        gone = db.chain.rewind(1)
        db.source.tell([*gone, *db.chain.mine(), *db.chain.mine()])
        await eventually(lambda: enforced(db, 1) and db.tokens() == {1, 2})


async def test_the_policy_is_enforced_before_the_chain_confirms_the_stored_registry(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    db.source.final = len(db.chain.blocks) - 1
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        await eventually(lambda: db.store.saved and db.store.saved.policy)
    db.source.up = False
    db.firewall.rules = None
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
        assert enforced(db, 1)


async def test_a_wrong_own_key_is_reported_under_a_policy(db: Bench) -> None:
    db.chain.mine(KeyUpdated(0, key(99)), policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: "another public key than ours" in db.component("membership"))


async def test_a_tag_that_is_gone_after_the_chain_was_read_as_a_whole_takes_the_rights(db: Bench) -> None:
    """The member stays a peer, so that no change of a peer shows it."""
    ping = {"src": ["*"], "dst": ["*"], "ip": ["icmp:*"]}
    db.chain.mine(policy(db, 1, WEB_TO_DB, ping))
    async with db.running() as node:
        await eventually(lambda: enforced(db, 1) and len(inbound(db, 1).inbound) == 2)
        await eventually(lambda: db.tokens() == {1, 2, 3})
        follower = node.members.follower
        registry = follower.registry
        nodes = {**registry.nodes, 1: replace(registry.nodes[1], tags=0)}
        assert follower.tip is not None
        base = Registry.of(nodes.values(), registry.contract)
        follower.bootstrapped(base, follower.tip, reload_above=100)
        node.members.rebuild(0.0)
        await eventually(lambda: len(inbound(db, 1).inbound) == 1)
        assert db.tokens() == {1, 2, 3}


async def test_a_restart_closes_no_adopted_peer(db: Bench) -> None:
    """Members that were not final are unknown to a new process until it has read the device."""
    db.keep_interface, db.resync_interval = True, 0.02
    db.source.final = 2
    db.chain.mine(TagsUpdated(1, 0), policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: enforced(db, 1) and db.tokens() == {2})
        db.source.tell(db.chain.mine(Granted(4, "0xowner4", "node-4", key(4)), TagsUpdated(4, WEB)))
        await eventually(lambda: db.tokens() == {2, 4})
        await eventually(lambda: db.store.saved is not None and db.store.saved.tip.number == 4)
    left = db.firewall.rules
    assert left is not None
    assert left.policy is not None
    again = Bench(chain=db.chain, store=db.store, link=db.link, firewall=db.firewall)
    again.source.has_contract, again.keep_interface, again.source.up = True, True, False
    db.firewall.history.clear()
    async with again.running():
        await eventually(lambda: enforced(again, 1))
        again.source.up = True
        await eventually(lambda: again.follows() and again.health().healthy)
        assert again.tokens() == {2, 4}
    assert db.firewall.history
    for rules in db.firewall.history:
        assert rules.policy is not None
        assert group_of(rules.policy).keys() == group_of(left.policy).keys()


async def test_an_earlier_processs_table_stays_until_the_policy_is_known(db: Bench) -> None:
    db.chain.mine(policy(db, 1, WEB_TO_DB))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2})
    left = db.firewall.rules
    db.store.saved, db.source.up = None, False
    db.node = db.build()
    await db.node.firewall_controller.settle()
    assert db.firewall.rules == left
    assert left is not None


async def test_a_revoked_member_loses_its_rights(db: Bench) -> None:
    db.chain.mine(policy(db, 1, OPEN))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        db.source.tell(db.chain.mine(Revoked(2)))
        await eventually(lambda: db.tokens() == {1, 3})
        await eventually(lambda: not inbound(db, 2))


async def test_the_loss_of_most_peers_by_a_policy_needs_no_second_reading(db: Bench) -> None:
    db.chain.mine(*(grant(token) for token in range(10, 40)))
    async with db.running():
        await eventually(lambda: len(db.tokens()) == 33)
        db.source.tell(db.chain.mine(policy(db, 1, WEB_TO_DB)))
        await eventually(lambda: db.tokens() == {1, 2})
        assert db.source.seconds == 0


# -- networks behind this node ---------------------------------------------------------------------


async def test_the_routes_of_our_token_are_forwarded_to(db: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "FORWARDING", 0.02)
    db.firewall.off = "IP forwarding is off: set net.ipv4.ip_forward=1"
    db.protect = True
    db.chain.mine(RoutesUpdated(0, ("10.77.0.0/20", "192.168.7.0/24")))
    async with db.running():
        await eventually(lambda: db.tokens() == {1, 2, 3})
        await eventually(lambda: networks(db) == {"192.168.7.0/24"})
        assert "10.77.0.0/20: it overlaps" in db.component("networks")
        await eventually(lambda: db.node.firewall_controller.forwarding_problem)
        assert db.component("gateway") == f"failed: {db.firewall.off}"
        db.source.tell(db.chain.mine(RoutesUpdated(0, ())))
        await eventually(lambda: networks(db) == set())
        assert not [each for each in db.health().components if each.name == "networks"]
        await eventually(lambda: db.node.firewall_controller.forwarding_problem is None)


async def test_a_policy_decides_about_networks_and_peers(db: Bench) -> None:
    to_office = {"src": ["node:node-3"], "dst": ["192.168.7.0/25"], "ip": ["tcp:443"]}
    db.chain.mine(RoutesUpdated(0, ("192.168.7.0/24",)), policy(db, 1, to_office))
    async with db.running():
        await eventually(lambda: db.tokens() == {3})
        assert enforced(db, 1)
        assert {zone for zone, rights in zones(db, 3).items() if rights} == {"192.168.7.0/25"}
        assert not inbound(db, 3)
        db.source.tell(db.chain.mine(RoutesUpdated(0, ("10.8.0.0/16",))))
        await eventually(lambda: db.tokens() == set())
        assert {zone for zone, rights in zones(db, 3).items() if rights} == set()
        db.source.tell(db.chain.mine(policy(db, 2, OPEN)))
        await eventually(lambda: db.tokens() == {1, 2, 3})
        assert all(zones(db, token)["10.8.0.0/16"] for token in (1, 2, 3))
        db.source.tell(db.chain.mine(Revoked(1)))
        await eventually(lambda: db.tokens() == {2, 3})
        await eventually(lambda: not zones(db, 1)["10.8.0.0/16"])
        db.source.tell(db.chain.mine(PolicyUpdated(None)))
        await eventually(lambda: enforced(db, None))
        assert networks(db) == {"10.8.0.0/16"}


async def test_a_member_whose_network_we_may_use_is_a_peer(db: Bench) -> None:
    to_office = {"src": ["tag:db"], "dst": ["192.168.7.9/32"], "ip": ["tcp:443"]}
    db.chain.mine(policy(db, 1, to_office), RoutesUpdated(3, ("192.168.7.0/24",)))
    async with db.running():
        await eventually(lambda: db.tokens() == {3})
        assert not inbound(db, 3)
        db.source.tell(db.chain.mine(RoutesUpdated(3, ())))
        await eventually(lambda: db.tokens() == set())


def networks(bench: Bench) -> set[str] | None:
    rules = bench.firewall.rules
    return None if rules is None or rules.networks is None else set(rules.networks)


def zones(bench: Bench, token: int) -> dict[str, GroupRights]:
    """Return the rights of a member to each network."""
    assert bench.firewall.rules is not None
    assert bench.firewall.rules.policy is not None
    return {
        network: zone.rights_of(f"10.77.0.{token + 1}")
        for zone in bench.firewall.rules.policy.networks.values()
        for network in zone.addresses
    }
