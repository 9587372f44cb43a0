"""The policies in force as JSON values: what is enforced, what was counted, and why."""

from collections.abc import Iterable
from typing import Any

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.policy.compiler import PolicyInForce
from dstack_vpn.core.policy.evaluation import Packet, decide
from dstack_vpn.core.policy.members import members_around
from dstack_vpn.core.policy.rules import GroupRights, PortRight
from dstack_vpn.core.policy.selection import FILE
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.daemon.observe.denied import PROTOCOLS


def describe_policies(node: Daemon) -> dict[str, Any]:
    """Return the policies in force, this node's rules under them, and their counts."""
    members, counts = node.members, node.denied.counts
    selection, rules = members.policies.selection, members.policies.rules
    in_force = selection.in_force
    return {
        "in_force": None if in_force is None else [_shown(each) for each in in_force],
        "refused": selection.refused,
        "warning": selection.warning,
        "enforced": node.firewall_controller.is_settled and not members.admission.unenforced,
        "addresses": 0 if rules is None else rules.size,
        "granted": [
            {"policy": grant.policy, "grant": grant.number, "packets": count.packets, "bytes": count.bytes}
            for grant, count in sorted(counts.granted.items())
        ],
        "denied": {"packets": counts.denied.packets, "bytes": counts.denied.bytes},
        "recent": [
            {
                "source": entry.source,
                "node": members.node_at(entry.source),
                "destination": entry.destination,
                "protocol": PROTOCOLS.get(entry.protocol, str(entry.protocol)),
                "port": entry.port,
                "packets": entry.packets,
            }
            for entry in counts.recent
        ],
    }


def _shown(policy: PolicyInForce) -> dict[str, Any]:
    return {
        "id": policy.id,
        "source": "file" if policy.id == FILE else "registry",
        "hash": policy.hash,
        "text": policy.text,
        "grants": len(policy.document.grants),
    }


def explain(node: Daemon, packet: Packet) -> dict[str, Any]:
    """Return the decision about a connection, by each policy in force."""
    members = node.members
    in_force = members.policies.selection.in_force
    directory = members_around(members.access, (packet.src, packet.dst), members.now())
    found = [(each.id, decide(each.document, directory, packet)) for each in in_force or ()]
    closed = in_force is not None and not in_force
    denied = next((decision for _, decision in found if not decision.allowed), None)
    if in_force is None:
        reason = "no policy restricts connections"
    elif closed:
        reason = "no policy is confirmed yet, so nothing is permitted"
    else:
        reason = (denied or found[0][1]).reason
    return {
        "allowed": not closed and denied is None,
        "reason": reason,
        "source": str(packet.src),
        "destination": str(packet.dst),
        "port": str(packet),
        "policies": [
            {
                "id": id_,
                "allowed": decision.allowed,
                "grants": list(decision.grants),
                "reason": decision.reason,
            }
            for id_, decision in found
        ],
    }


def rights_with(node: Daemon, addresses: Iterable[IPAddress]) -> dict[str, Any] | None:
    """Return the rights between this node and a member; None: no policy restricts them."""
    rules = node.members.policies.rules
    if rules is None:
        return None
    group = next(filter(None, (rules.rights_of(str(address)) for address in addresses)), GroupRights())
    return {"inbound": _ports(group.inbound), "outbound": _ports(group.outbound)}


def _ports(rights: Iterable[PortRight]) -> list[str]:
    return [str(right.ports) for right in rights]
