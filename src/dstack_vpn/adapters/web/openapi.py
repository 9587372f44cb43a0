"""The API's description, OpenAPI 3.1: what `/openapi.json` serves, and the tests hold the daemon to."""

from typing import Any, Final

from dstack_vpn.core.observe.events import EVENTS

Schema = dict[str, Any]

MOST_NAMES: Final = 32
"""Nodes, and owners, that forward-auth may be asked to choose from."""

_NODE: Final = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_KEY: Final = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"
_OWNER: Final = "^0x[0-9a-f]{40}$"
_TIME: Final[Schema] = {"type": ["number", "null"], "description": "Unix seconds"}


def _object(**properties: Any) -> Schema:  # noqa: ANN401 - a schema, or something nullable
    """An object that has all of these and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _or_null(kind: str, **more: Any) -> Schema:  # noqa: ANN401 - JSON schema keywords
    return {"type": [kind, "null"], **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_NODE_ID: Final[Schema] = {"type": "string", "pattern": _NODE}

_STATES: Final = (
    "connected: has a session; no answer: bytes go to it and none come; stale: had a session; never: had none"
)

_PEER: Final = _object(
    node_id=_or_null("string", description="text of our own where the registry's was refused"),
    token=_COUNT,
    owner=_or_null("string", pattern=_OWNER),
    public_key={"type": "string", "pattern": _KEY},
    addresses={"type": "array", "items": _TEXT, "description": "tunnel addresses, as prefixes"},
    endpoint=_or_null("string", description="where WireGuard last heard from it, or is to call it"),
    transport=_or_null("string", description="udp, tcp or tls; null: none now"),
    relay={"type": ["object", "null"], "description": "the relay that carries it, with its counters"},
    state={"enum": ["connected", "no answer", "stale", "never"], "description": _STATES},
    no_answer_since={**_TIME, "description": "since when it owes an answer; null: it answers, or is idle"},
    last_handshake=_TIME,
    rx_bytes=_or_null("integer"),
    tx_bytes=_or_null("integer"),
    reason=_or_null("string", description="why it is here"),
    since_block=_or_null("integer", description="the block of its present key"),
    expires_at=_or_null("integer", description="Unix seconds; null: never"),
)

_DECISION: Final = _object(
    granted={"type": "boolean", "description": "whether it is a peer of this node"},
    reason=_TEXT,
    detail=_TEXT,
    peer={"type": "boolean", "description": "whether WireGuard is to have it"},
    token=_or_null("integer"),
    node=_or_null("string"),
    owner=_or_null("string"),
    public_key=_or_null("string"),
)

_MEMBER: Final = _object(
    ip=_TEXT,
    token=_COUNT,
    node=_NODE_ID,
    owner={"type": "string", "pattern": _OWNER},
    public_key={"type": "string", "pattern": _KEY},
    self={"type": "boolean", "description": "whether that is this node"},
)

_EVENT: Final[Schema] = {
    "type": "object",
    "properties": {"id": _TEXT, "at": {"type": "number"}, "kind": _TEXT},
    "required": ["id", "at", "kind"],
    "description": "what happened; the other members depend on the kind",
}

_MESSAGE: Final[Schema] = {
    "type": "object",
    "description": "a message; `data` is an Event in JSON but for its id, and empty for `reset`",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]+-[0-9]+$"},
        "event": {"enum": [*EVENTS, "reset"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["id", "event", "data"],
}

_HEALTH: Final = _object(
    status={"enum": ["ok", "warning", "failed"]},
    ready={"type": "boolean"},
    components={
        "type": "array",
        "items": _object(name=_TEXT, status={"enum": ["ok", "warning", "failed"]}, reason=_TEXT, since=_TIME),
    },
)

_STATS: Final[Schema] = {
    "type": "object",
    "required": ["version", "now", "node_id", "token", "public_key", "chain", "peers", "event_to_peer_ms"],
    "properties": {
        "now": {"type": "number", "description": "Unix seconds"},
        "peers": {"type": "array", "items": _ref("Peer")},
    },
}

_SCHEMAS: Final[Schema] = {
    "Peer": _PEER,
    "Peers": _object(now={"type": "number"}, peers={"type": "array", "items": _ref("Peer")}),
    "Node": _object(
        decision=_ref("Decision"),
        peer={"oneOf": [_ref("Peer"), {"type": "null"}]},
        history={"type": "array", "items": _ref("Event")},
    ),
    "Decision": _DECISION,
    "Member": _MEMBER,
    "Event": _EVENT,
    "Health": _HEALTH,
    "Stats": _STATS,
    "Attestation": _object(
        public_key={"type": "string", "pattern": _KEY},
        report_data={"type": "string", "pattern": "^[0-9a-f]{128}$"},
        quote={"type": "string", "description": "hexadecimal"},
        event_log={"type": "string", "description": "JSON, as the guest agent has it"},
        vm_config=_TEXT,
        app_id=_TEXT,
        instance_id=_TEXT,
        compose_hash=_TEXT,
    ),
    "Version": _object(version=_TEXT, python=_TEXT, api=_TEXT),
    "Problem": _object(error=_TEXT),
}

_PROBLEMS: Final = {
    "400": "the question is malformed",
    "401": "the token is missing or wrong",
    "403": "not this one",
    "404": "there is none",
    "405": "only GET is answered",
    "413": "a request has no body",
    "421": "asked for by a name that is not this machine's",
    "429": "too many requests",
    "503": "not now",
}
_ALWAYS: Final = ("400", "405", "413", "421", "429", "503")


def _parameter(name: str, schema: Schema, text: str, *, where: str = "query", needed: bool = False) -> Schema:
    return {"name": name, "in": where, "required": needed, "schema": schema, "description": text}


def _json(schema: str, text: str) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": _ref(schema)}}}


def _get(
    summary: str,
    good: Schema,
    *parameters: Schema,
    more: tuple[str, ...] = (),
    secured: bool = True,
) -> Schema:
    """An operation that answers ``good``, or one of the problems."""
    problems = sorted({*_ALWAYS, *more, *(["401"] if secured else [])})
    operation: Schema = {
        "summary": summary,
        "operationId": "".join(word.title() for word in summary.split()[:4]),
        "responses": {"200": good} | {code: _json("Problem", _PROBLEMS[code]) for code in problems},
        "security": [{"bearer": []}, {}] if secured else [],
    }
    if secured:
        challenge = {"WWW-Authenticate": {"schema": _TEXT, "required": False}}
        operation["responses"]["401"]["headers"] = challenge
    if parameters:
        operation["parameters"] = list(parameters)
    return {"get": operation}


def _verdict(summary: str, schema: Schema) -> Schema:
    """An operation that says the same with 200 and with 503."""
    content = {"application/json": {"schema": schema}}
    operation = _get(summary, {"description": "yes", "content": content}, secured=False)
    refused = {"application/json": {"schema": {"oneOf": [schema, _ref("Problem")]}}}
    operation["get"]["responses"]["503"] = {"description": "no, or not now", "content": refused}
    return operation


_IDENTITY: Final = ("Remote-User", "X-Vpn-Node", "X-Vpn-Owner", "X-Vpn-Token", "X-Vpn-Key", "X-Vpn-Address")
_IP: Final = _parameter(
    "ip",
    {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}], "examples": ["10.77.0.2"]},
    "a tunnel address",
)
_BY_NODE: Final = _parameter("node", _NODE_ID, "a node id")


def _paths() -> Schema:
    nodes = {"type": "array", "items": _NODE_ID, "maxItems": MOST_NAMES}
    owners = {"type": "array", "items": {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}} | {
        "maxItems": MOST_NAMES
    }
    identity = _json("Member", "a member of the network, and who")
    identity["headers"] = {name: {"schema": _TEXT, "required": True} for name in _IDENTITY}
    stream = {"description": "server-sent events", "content": {"text/event-stream": {"schema": _MESSAGE}}}
    text = {"description": "for Prometheus", "content": {"text/plain": {"schema": _TEXT}}}
    return {
        "/live": _verdict("Does it answer", _object(live={"type": "boolean"})),
        "/ready": _verdict("Does the tunnel carry members", _object(ready={"type": "boolean"})),
        "/health": _verdict("How is each component", _ref("Health")),
        "/stats": _get("Everything at a glance", _json("Stats", "counters and peers")),
        "/peers": _get("The peers of this node", _json("Peers", "who they are, and what they carried")),
        "/peers/{node}": _get(
            "One node with its history",
            _json("Node", "what is known of it"),
            {**_BY_NODE, "in": "path", "required": True},
            more=("404",),
        ),
        "/decisions": _get(
            "Is it on the network and why",
            _json("Decision", "the decision and its reason"),
            _BY_NODE,
            _parameter("key", {"type": "string", "pattern": _KEY}, "a WireGuard public key"),
            _IP,
        ),
        "/whois": _get(
            "Who is behind a tunnel address", _json("Member", "who"), {**_IP, "required": True}, more=("404",)
        ),
        "/auth": _get(
            "Forward-auth for a reverse proxy",
            identity,
            _parameter("node", nodes, "only these nodes (or owners)"),
            _parameter("owner", owners, "only nodes of these owners (or those nodes)"),
            more=("403",),
        ),
        "/events": _get(
            "What happens as it happens",
            stream,
            _parameter("backlog", {"type": "integer", "minimum": 0, "maximum": 2048}, "past events first"),
            _parameter("wait", {"type": "integer", "minimum": 0, "maximum": 86400}, "end after so many s"),
            _parameter("last_event_id", _TEXT, "as the header, where that can't be sent"),
            _parameter("Last-Event-ID", _TEXT, "go on after this event", where="header"),
        ),
        "/metrics": _get("Metrics for Prometheus to scrape", text),
        "/attestation": _get(
            "Is this node's key that of a measured machine",
            _json("Attestation", "a TDX quote over the public key; docs/trust.md says what it is worth"),
            more=("404",),
        ),
        "/version": _get("Which version this is", _json("Version", "of the daemon")),
        "/openapi.json": _get(
            "This very document",
            {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}},
        ),
    }


def document(version: str) -> Schema:
    """The description of this version's API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dstack-vpn",
            "version": version,
            "description": "A node of a WireGuard network whose members are decided on chain. Reads only.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "API_TOKEN; not needed from where API_OPEN_TO says",
                }
            },
        },
    }
