"""Descriptions of events and of audit records.

Keys are shortened; `--json` has complete keys and all fields. Each line ends with the kind, which
is an argument of `audit show --kind`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Body: TypeAlias = Mapping[str, Any]

KEY: Final = 8
"""The number of characters of a public key that are shown."""
_HASH: Final = 10
"""The same of a hash, with its prefix."""
_FIELDS_OF_PLACE: Final = frozenset({"kind", "at", "number"})


def describe(kind: str, body: Body) -> str:
    """Describe an event, with its kind in brackets; an unknown kind or body as a list of fields."""
    try:
        words = _WORDS[kind](body)
    except (KeyError, TypeError):
        words = _fields(body)
    return f"{words} [{kind}]" if words else f"[{kind}]"


def _fields(body: Body) -> str:
    """Return all fields with a value; a flag by its name if it is set."""
    shown = ((n, v) for n, v in body.items() if n not in _FIELDS_OF_PLACE and v not in (None, "", False))
    return ", ".join(n.replace("_", " ") if v is True else f"{n.replace('_', ' ')} {v}" for n, v in shown)


def _who(body: Body) -> str:
    """Return the node's id and token, or its key if it has neither."""
    node, token, key = body.get("node"), body.get("token"), body.get("peer")
    if node:
        return f"{node} (token {token})" if token is not None else str(node)
    if token is not None:
        return f"token {token}"
    return f"key {str(key)[:KEY]}..." if key else "a node"


def _event(body: Body) -> str:
    subject = f"owner {body['owner']}" if body["token"] is None and body.get("owner") else _who(body)
    undone = ", undone by a reorg" if body.get("undone") else ""
    return f"{subject}: {body['event']} in block {body['block']}{undone}"


def _many(body: Body) -> str:
    undone = f", {body['undone']} undone by a reorg" if body["undone"] else ""
    return f"{body['added']} registry events up to block {body['block']}{undone}"


def _health(body: Body) -> str:
    reason = f": {body['reason']}" if body["reason"] else ""
    return f"{body['component']} was {body['before']}, is {body['status']}{reason}"


def _cut(body: Body) -> str:
    kinds = f" ({body['kinds']})" if body.get("kinds") else ""
    among = "up to" if "hash" in body else "among those up to"
    return f"{body['records']} records {among} number {body['through']}, by {body['by']}{kinds}"


def _plan_failed(body: Body) -> str:
    back = ", rolled back" if body["rolled_back"] else ""
    return f"a plan of {body['steps']} steps failed{back}: {body['problem']}"


def _pin(body: Body) -> str:
    if body["peers"] is None:
        return "no configuration is pinned: the node follows the registry"
    return f"a configuration of {body['peers']} peers is pinned"


def _place(body: Body) -> str:
    return f"in block {body['block']}{', undone by a reorg' if body.get('undone') else ''}"


def _policy(body: Body) -> str:
    if body["policy"] is None:
        return f"the policy was removed {_place(body)}"
    return f"the policy is {str(body['policy'])[:_HASH]}... {_place(body)}"


def _policy_text(body: Body) -> str:
    if body["policy"] is None:
        return f"no policy at block {body['block']}"
    return f"the policy {str(body['policy'])[:_HASH]}... was read: {body['bytes']} bytes"


def _role(body: Body) -> str:
    account = body["account"] or "no account"
    return f"{account} is {'now' if body['held'] else 'no longer'} {body['role']} {_place(body)}"


def _invitation(body: Body) -> str:
    invitation = f"invitation {str(body['invitation'])[:_HASH]}..."
    node = "" if body["token"] is None else f" by {_who(body)}"
    return f"{invitation} was {body['event']}{node} {_place(body)}"


def _denied(body: Body) -> str:
    who = body["source"] if body["node"] is None else f"{body['node']} ({body['source']})"
    port = f" port {body['port']}" if body["port"] else ""
    return f"denied: {who} to {body['destination']}, {body['protocol']}{port}"


def _in_force(body: Body) -> str:
    if body["policies"] is None:
        return "no policy restricts connections"
    if body["policies"] == "closed":
        return "nothing is permitted until a policy is confirmed"
    return f"policy {body['policies']} is in force: {body['grants']} grants"


def _network_reached(body: Body) -> str:
    former = f" instead of {body['former']}" if body["former"] else ""
    return f"{body['network']} is reached by {body['node']}{former}"


_WORDS: Final[Mapping[str, Callable[[Body], str]]] = {
    "access.decided": lambda b: f"{_who(b)}: access {'granted' if b['granted'] else 'denied'}: {b['reason']}",
    "access.decided_many": lambda b: f"access granted to {b['granted']} nodes, denied to {b['refused']}",
    "brake.contradicted": lambda b: f"{b['endpoint']} contradicts the removal of {b['peers']} peers",
    "brake.engaged": lambda b: f"the removal of {b['removals']} of {b['peers']} peers is held",
    "brake.released": lambda b: f"the removal of {b['removals']} peers is released",
    "chain.connected": lambda b: f"connected to {b['endpoint']}",
    "chain.event": _event,
    "chain.events": _many,
    "chain.invitation": _invitation,
    "chain.lost": lambda b: f"connection lost: {b['problem']}",
    "chain.paused": lambda b: (
        f"registrations are {'paused' if b['paused'] else 'possible'} from {_place(b).removeprefix('in ')}"
    ),
    "chain.policy": _policy,
    "chain.policy_read": _policy_text,
    "chain.quarantined": lambda b: f"{b['endpoint']} is in quarantine: {b['problem']}",
    "chain.read": lambda b: f"registry read: {b['tokens']} tokens at block {b['block']}",
    "chain.reorg": lambda b: (
        f"reorg of {b['depth']} blocks at block {b['block']}: {b['dropped']} events undone, {b['added']} new"
    ),
    "chain.role": _role,
    "chain.tag": lambda b: f"tag {b['tag']} is defined as number {b['index']} {_place(b)}",
    "config.pin": _pin,
    "health.changed": _health,
    "key.change_failed": lambda b: f"the key was not changed, {b['tries']} tries: {b['problem']}",
    "key.changed": lambda b: f"this node's key is now {str(b['key'])[:KEY]}...",
    "network.left": lambda b: f"{b['network']} is not reached any more: {b['reason']}",
    "network.reached": _network_reached,
    "network.refused": lambda b: f"{b['network']} is not used: {b['problem']}",
    "peer.answered": lambda b: f"{_who(b)}: answers again",
    "peer.no_answer": lambda b: f"{_who(b)}: no answer",
    "peer.refused": lambda b: f"{_who(b)}: refused by the interface: {b['problem']}",
    "peer.removed": lambda b: f"{_who(b)}: peer removed: {b['reason']}",
    "peer.set": lambda b: f"{_who(b)}: peer {'added' if b['added'] else 'changed'}: {b['reason']}",
    "peer.transport": lambda b: f"{_who(b)}: reached by {b['way']}",
    "peers.answering": lambda b: f"{b['silent']} peers do not answer, {b['answering']} answer",
    "peers.changed": lambda b: f"{b['set']} peers set, {b['removed']} removed",
    "plan.failed": _plan_failed,
    "policy.applied": lambda b: f"the packet filter has the policy's rules for {b['members']} addresses",
    "policy.denied": _denied,
    "policy.denied_many": lambda b: f"packets of {b['entries']} kinds were denied by the policy",
    "policy.in_force": _in_force,
    "route.refused": lambda b: f"a route of this node is not used: {b['problem']}",
    "policy.refused": lambda b: f"the policy was refused: {b['problem']}",
    "early.unavailable": lambda b: f"no early revocations by {b['endpoint']}: {b['problem']}",
    "early.false": lambda b: (
        f"the chain lacks a pre-confirmed event: {b['tokens']} tokens are decided by the registry again"
    ),
    "exit.used": lambda b: f"everything leaves by {b['node']}",
    "exit.blocked": lambda b: f"nothing leaves: {b['reason']}",
    "token.refused": lambda b: f"{_who(b)}: malformed {b['field']}: {b['problem']}",
    "rpc.budget": lambda b: (
        f"{b['calls']} of {b['budget']} RPC calls of today were made"
        f"{': the budget is spent' if b['spent'] else ''}"
    ),
    "admin.resume": lambda b: (
        "resumed: the node follows the registry" if b["was_pinned"] else "resumed; nothing was pinned"
    ),
    "audit.cut": _cut,
    "admin.invitation": lambda b: f"{b['what']}; invitation {b['hash']}",
    "admin.rollback": lambda b: f"rolled back to {b['backup']}",
    "admin.transaction": lambda b: f"{b['what']}; transaction {b['transaction']}, block {b['block']}",
}
