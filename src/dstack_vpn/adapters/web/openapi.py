"""The API's description in OpenAPI 3.1, served at `/openapi.json`.

Tests compare the API with it.
"""

from typing import Any, Final

from dstack_vpn.core.observe.events import EVENTS

Schema = dict[str, Any]

MOST_NAMES: Final = 32
"""The maximum number of nodes, and of owners, in a forward-auth request."""

_NODE: Final = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_KEY: Final = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"
_OWNER: Final = "^0x[0-9a-f]{40}$"
_TIME: Final[Schema] = {"type": ["number", "null"], "description": "Unix seconds"}


def _object(**properties: Any) -> Schema:  # noqa: ANN401 - a schema, or a nullable one
    """Return the schema of an object with exactly these properties."""
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
    "connected: has a session; no answer: bytes were sent and none received; stale: had a session; "
    "never: never had a session"
)

_TAGS: Final = "names; a number is the bit of a tag without a name"
_TAG_NAMES: Final[Schema] = {"type": "array", "items": {"type": ["string", "integer"]}}

_PEER: Final = _object(
    node_id=_or_null("string", description="a replacement text if the registry's is invalid"),
    token=_COUNT,
    owner=_or_null("string", pattern=_OWNER),
    public_key={"type": "string", "pattern": _KEY},
    addresses={"type": "array", "items": _TEXT, "description": "tunnel addresses, as prefixes"},
    endpoint=_or_null("string", description="its last source address, or its configured address"),
    tags={**_TAG_NAMES, "description": f"in the registry: {_TAGS}"},
    routes={"type": "array", "items": _TEXT, "description": "networks behind it, as prefixes"},
    transport=_or_null("string", description="udp, tcp or tls; null: currently none"),
    relay={"type": ["object", "null"], "description": "the relay that carries it, with its counters"},
    state={"enum": ["connected", "no answer", "stale", "never"], "description": _STATES},
    no_answer_since={**_TIME, "description": "start of the missing answers; null: it answers, or is idle"},
    round_trip_ms=_or_null("number", description="smoothed, through the tunnel; null: not measured lately"),
    last_handshake=_TIME,
    rx_bytes=_or_null("integer"),
    tx_bytes=_or_null("integer"),
    reason=_or_null("string", description="the reason of the access decision"),
    since_block=_or_null("integer", description="the block of its current key"),
    expires_at=_or_null("integer", description="Unix seconds; null: never"),
)

_NETWORK: Final = _object(
    network={"type": "string", "description": "an accepted network behind other nodes, as a prefix"},
    token=_or_null("integer", description="of the gateway in use; null: the network is not used"),
    node_id=_or_null("string", description="the gateway in use"),
    gateways={"type": "array", "items": _TEXT, "description": "the nodes that lead to it"},
    problem=_or_null("string", description="the reason that it is not used"),
)

_DECISION: Final = _object(
    granted={"type": "boolean", "description": "true if it has access as a peer; false for this node"},
    reason=_TEXT,
    detail=_TEXT,
    tags={**_TAG_NAMES, "description": f"granted, also to this node: {_TAGS}"},
    routes={"type": "array", "items": _TEXT, "description": "granted networks behind the node"},
    peer={"type": "boolean", "description": "true if WireGuard should have it as a peer"},
    token=_or_null("integer"),
    node=_or_null("string"),
    owner=_or_null("string"),
    public_key=_or_null("string"),
)

_ACCOUNTS: Final[Schema] = {"type": "array", "items": {"type": "string", "pattern": _OWNER}}

_CONTRACT: Final = _object(
    known={"type": "boolean", "description": "false before it was read, or without such a state"},
    tags={"type": "array", "items": {"type": ["string", "null"]}, "description": "names by bit"},
    policy={
        "oneOf": [
            _object(
                hash={"type": "string", "pattern": "^0x[0-9a-f]{64}$"},
                block={**_COUNT, "description": "the block in which it was set, or found"},
                bytes=_or_null("integer"),
                text=_or_null("string", description="any characters; null: not read yet"),
            ),
            {"type": "null"},
        ]
    },
    roles=_object(
        owner=_or_null("string", pattern=_OWNER),
        pending_owner=_or_null("string", pattern=_OWNER),
        minters=_ACCOUNTS,
        policy_administrators=_ACCOUNTS,
    ),
    paused={"type": "boolean", "description": "true if no token can be minted"},
    in_force=_object(
        tags={"type": "array", "items": {"type": ["string", "null"]}, "description": "names by bit"},
        policies={
            "type": "array",
            "items": {"type": ["string", "null"]},
            "description": "hashes: all must permit an access; null: no policy; empty: none known",
        },
    ),
)

_COUNTED: Final = {"packets": _COUNT, "bytes": _COUNT}

_POLICY: Final = _object(
    in_force={
        "description": "each must permit a connection; null: no policy; empty: nothing is permitted",
        "oneOf": [
            {
                "type": "array",
                "items": _object(
                    id={"type": "string", "description": "8 digits of the hash, or file"},
                    source={"enum": ["registry", "file"]},
                    hash=_or_null("string", pattern="^0x[0-9a-f]{64}$"),
                    text=_or_null("string", description="any characters; null for a file"),
                    grants=_COUNT,
                ),
            },
            {"type": "null"},
        ],
    },
    refused=_or_null("string", description="the reason that the registry's policy is not in force"),
    warning=_or_null("string"),
    enforced={"type": "boolean", "description": "the packet filter has the newest rules"},
    addresses={**_COUNT, "description": "tunnel addresses with rights on this node"},
    granted={"type": "array", "items": _object(policy=_TEXT, grant=_COUNT, **_COUNTED)},
    denied=_object(**_COUNTED),
    recent={
        "type": "array",
        "description": "denied packets of the last minute",
        "items": _object(
            source=_TEXT,
            node=_or_null("string"),
            destination=_TEXT,
            protocol={"type": "string", "description": "tcp, udp, icmp, or a number"},
            port={**_COUNT, "description": "0 without ports"},
            packets=_COUNT,
        ),
    },
)

_EXPLANATION: Final = _object(
    allowed={"type": "boolean"},
    reason=_TEXT,
    source=_TEXT,
    destination=_TEXT,
    port=_TEXT,
    policies={
        "type": "array",
        "items": _object(
            id=_TEXT,
            allowed={"type": "boolean"},
            grants={"type": "array", "items": _COUNT, "description": "from 1"},
            reason=_TEXT,
        ),
    },
)

_RIGHTS: Final[Schema] = {
    "description": "what the policies permit between this node and that one; null: no policy",
    "oneOf": [
        _object(
            inbound={"type": "array", "items": _TEXT, "description": "to this node, such as tcp:22"},
            outbound={"type": "array", "items": _TEXT, "description": "from this node"},
        ),
        {"type": "null"},
    ],
}

_MEMBER: Final = _object(
    ip=_TEXT,
    token=_COUNT,
    node=_NODE_ID,
    owner={"type": "string", "pattern": _OWNER},
    public_key={"type": "string", "pattern": _KEY},
    self={"type": "boolean", "description": "true for this node"},
)

_EVENT: Final[Schema] = {
    "type": "object",
    "properties": {"id": _TEXT, "at": {"type": "number"}, "kind": _TEXT},
    "required": ["id", "at", "kind"],
    "description": "an event; the other members depend on the kind",
}

_MESSAGE: Final[Schema] = {
    "type": "object",
    "description": "a message; `data` is an Event in JSON without its id, and empty for `reset`",
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

_USED: Final = {
    "calls": {**_COUNT, "description": "requests that were sent"},
    "notifications": _COUNT,
    "sent": {**_COUNT, "description": "bytes of JSON-RPC messages"},
    "received": _COUNT,
}
_SECONDS: Final = {**_COUNT, "description": "observed seconds"}
_METHODS: Final[Schema] = {
    "type": "object",
    "description": "by method; eth_subscription: notifications",
    "additionalProperties": _object(count=_COUNT, sent=_COUNT, received=_COUNT),
}
_ENDPOINTS: Final[Schema] = {
    "type": "object",
    "description": "by endpoint",
    "additionalProperties": _METHODS,
}
_RPC_USAGE: Final = _object(
    since_start=_object(**_USED, endpoints=_ENDPOINTS),
    today=_object(date=_TEXT, seconds=_SECONDS, **_USED, endpoints=_ENDPOINTS),
    last_days=_object(**_USED, endpoints=_ENDPOINTS),
    days={
        "type": "array",
        "description": "up to seven days (UTC), the present one last",
        "items": _object(date=_TEXT, seconds=_SECONDS, **_USED),
    },
    estimate={
        "description": "the use to expect for a whole day; null: too little was observed",
        "oneOf": [_object(seconds=_SECONDS, **_USED, methods=_METHODS), {"type": "null"}],
    },
    budget=_or_null("integer", description="RPC_DAILY_CALLS; null: no limit"),
)

_STATS: Final[Schema] = {
    "type": "object",
    "required": ["version", "now", "node_id", "token", "public_key", "chain", "peers", "event_to_peer_ms"],
    "properties": {
        "now": {"type": "number", "description": "Unix seconds"},
        "peers": {"type": "array", "items": _ref("Peer")},
        "networks": {"type": "array", "items": _ref("Network")},
        "rpc": _ref("RpcUsage"),
    },
}

_SCHEMAS: Final[Schema] = {
    "Peer": _PEER,
    "Network": _NETWORK,
    "RpcUsage": _RPC_USAGE,
    "Peers": _object(now={"type": "number"}, peers={"type": "array", "items": _ref("Peer")}),
    "Node": _object(
        decision=_ref("Decision"),
        peer={"oneOf": [_ref("Peer"), {"type": "null"}]},
        policy=_RIGHTS,
        history={"type": "array", "items": _ref("Event")},
    ),
    "Contract": _CONTRACT,
    "Policy": _POLICY,
    "Decision": _DECISION,
    "Explanation": _EXPLANATION,
    "Member": _MEMBER,
    "Event": _EVENT,
    "Health": _HEALTH,
    "Stats": _STATS,
    "Attestation": _object(
        public_key={"type": "string", "pattern": _KEY},
        report_data={"type": "string", "pattern": "^[0-9a-f]{128}$"},
        quote={"type": "string", "description": "hexadecimal"},
        event_log={"type": "string", "description": "JSON, as the guest agent returns it"},
        vm_config=_TEXT,
        app_id=_TEXT,
        instance_id=_TEXT,
        compose_hash=_TEXT,
    ),
    "Version": _object(version=_TEXT, python=_TEXT, api=_TEXT),
    "Problem": _object(error=_TEXT),
}

_PROBLEMS: Final = {
    "400": "the request is malformed",
    "401": "the token is missing or wrong",
    "403": "access denied",
    "404": "not found",
    "405": "only GET is supported",
    "413": "a request must not have a body",
    "421": "the Host header does not name this machine",
    "429": "too many requests",
    "503": "temporarily unavailable",
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
    """Return an operation with the response ``good`` and the possible problems."""
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


def _status(summary: str, schema: Schema) -> Schema:
    """Return an operation with the same schema for 200 and for 503."""
    content = {"application/json": {"schema": schema}}
    operation = _get(summary, {"description": "yes", "content": content}, secured=False)
    refused = {"application/json": {"schema": {"oneOf": [schema, _ref("Problem")]}}}
    operation["get"]["responses"]["503"] = {"description": "no, or unavailable", "content": refused}
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
    identity = _json("Member", "a member of the network, and its identity")
    identity["headers"] = {name: {"schema": _TEXT, "required": True} for name in _IDENTITY}
    stream = {"description": "server-sent events", "content": {"text/event-stream": {"schema": _MESSAGE}}}
    text = {"description": "for Prometheus", "content": {"text/plain": {"schema": _TEXT}}}
    return {
        "/live": _status("Liveness of the process", _object(live={"type": "boolean"})),
        "/ready": _status("Readiness of the tunnel", _object(ready={"type": "boolean"})),
        "/health": _status("Health of each component", _ref("Health")),
        "/stats": _get("Complete state of the node", _json("Stats", "counters and peers")),
        "/peers": _get("The peers of this node", _json("Peers", "their identities and traffic")),
        "/peers/{node}": _get(
            "One node with its history",
            _json("Node", "its decision, peer and history"),
            {**_BY_NODE, "in": "path", "required": True},
            more=("404",),
        ),
        "/contract": _get(
            "Tags, policy and roles", _json("Contract", "the state of the registry contract itself")
        ),
        "/policy": _get("Policies in force, and their counters", _json("Policy", "the policies in force")),
        "/decisions": _get(
            "Access decision with its reason, or with src, dst and port the policies' decision",
            {
                "description": "the decision and its reason",
                "content": {
                    "application/json": {"schema": {"oneOf": [_ref("Decision"), _ref("Explanation")]}}
                },
            },
            _BY_NODE,
            _parameter("key", {"type": "string", "pattern": _KEY}, "a WireGuard public key"),
            _IP,
            _parameter("src", _TEXT, "a node id or an address"),
            _parameter("dst", _TEXT, "a node id or an address"),
            _parameter("port", _TEXT, "tcp:PORT, udp:PORT or icmp"),
        ),
        "/whois": _get(
            "Member with a tunnel address",
            _json("Member", "the member"),
            {**_IP, "required": True},
            more=("404",),
        ),
        "/auth": _get(
            "Forward-auth for a reverse proxy",
            identity,
            _parameter("node", nodes, "only these nodes (or owners)"),
            _parameter("owner", owners, "only nodes of these owners (or those nodes)"),
            more=("403",),
        ),
        "/events": _get(
            "Events as they happen",
            stream,
            _parameter("backlog", {"type": "integer", "minimum": 0, "maximum": 2048}, "past events first"),
            _parameter(
                "wait", {"type": "integer", "minimum": 0, "maximum": 86400}, "end after these seconds"
            ),
            _parameter("last_event_id", _TEXT, "for clients that can't send the header"),
            _parameter("Last-Event-ID", _TEXT, "continue after this event", where="header"),
        ),
        "/metrics": _get("Metrics for Prometheus to scrape", text),
        "/attestation": _get(
            "Attestation of the public key",
            _json("Attestation", "a TDX quote over the public key; docs/trust.md describes what it proves"),
            more=("404",),
        ),
        "/version": _get("Version of the daemon", _json("Version", "versions of the daemon and the API")),
        "/openapi.json": _get(
            "This API description",
            {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}},
        ),
    }


def document(version: str) -> Schema:
    """Return the OpenAPI document of this version."""
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
                    "description": "API_TOKEN; not required from sources in API_OPEN_TO",
                }
            },
        },
    }
