"""A node's API: peers, access decisions, members by address, and events; described in `openapi`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from aiohttp import web
from multidict import MultiDict, MultiMapping

from dstack_vpn.adapters.web.access import FORWARD_AUTH, Policy, behind, peer_of, source_of
from dstack_vpn.adapters.web.client import parse_address
from dstack_vpn.adapters.web.documents import Later
from dstack_vpn.adapters.web.openapi import MOST_NAMES, document
from dstack_vpn.adapters.web.server import Documents, Route, answer, problem
from dstack_vpn.adapters.web.stream import Feed, Streams
from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.model import parse_node_id
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

_MOST_WAIT: Final = 86_400
_MOST_BACKLOG: Final = 2048


class ApiView(Protocol):
    """The queries about a node; implemented by `wiring.view.NodeView`."""

    @property
    def feed(self) -> Feed:
        """The events."""

    @property
    def version(self) -> Mapping[str, Any]:
        """The running version and settings."""

    async def stats(self) -> Later:
        """Return the complete state."""

    async def peers(self) -> Later:
        """Return the peers."""

    async def metrics(self) -> Later:
        """Return the metrics for Prometheus."""

    async def peer(self, node_id: str) -> dict[str, Any] | None:
        """Return one node with its history; None if the registry has no such node."""

    def contract(self) -> dict[str, Any]:
        """Return the state of the contract itself: tags, policy and roles."""

    def policy(self) -> dict[str, Any]:
        """Return the policies in force, and what was counted under them."""

    def explain(self, source: str | IPAddress, destination: str | IPAddress, ports: str) -> dict[str, Any]:
        """Return the policies' decision about a connection; raises `FormatError`."""

    def decide(self, subject: str | PublicKey | IPAddress) -> dict[str, Any]:
        """Return the access decision on a node id, key or tunnel address, with its reason."""

    def whois(self, address: IPAddress) -> dict[str, Any] | None:
        """Return the member that has a tunnel address; None without one."""

    def is_ours(self, address: IPAddress) -> bool:
        """Return True for a tunnel address."""


class Api:
    """Implements `server.Part`."""

    open_paths = frozenset[str]()
    slow_paths = frozenset({"/events"})

    def __init__(self, view: ApiView, policy: Policy) -> None:
        self._view, self._policy = view, policy
        self.streams = Streams(view.feed)
        self._documents = Documents({"/stats": view.stats, "/peers": view.peers, "/metrics": view.metrics})
        self._openapi = document(str(view.version["version"]))

    @property
    def metrics_problem(self) -> str | None:
        """The reason of the last failure to write the metrics; None after a success."""
        return self._documents.problem("/metrics")

    def routes(self) -> Iterable[Route]:
        """See `server.Part.routes`."""
        return (
            Route("/peers/{node}", self._peer),
            Route("/contract", self._contract),
            Route("/policy", self._policy_in_force),
            Route("/decisions", self._decisions),
            Route("/whois", self._whois),
            Route(FORWARD_AUTH, self._auth),
            # Envoy uses its client's method, and appends the client's path to this one.
            Route(FORWARD_AUTH + "/{path:.*}", self._auth, "*"),
            Route("/events", self._events),
            Route("/version", self._version),
            Route("/openapi.json", self._describe),
            *self._documents.routes(),
        )

    async def close(self) -> None:
        """See `server.Part.close`."""
        await self.streams.close()

    async def _peer(self, request: web.Request) -> web.Response:
        found = await self._view.peer(parse_node_id(request.match_info["node"]))
        return problem(404, "the registry has no such node") if found is None else answer(found)

    async def _contract(self, _: web.Request) -> web.Response:
        return answer(self._view.contract())

    async def _policy_in_force(self, _: web.Request) -> web.Response:
        return answer(self._view.policy())

    async def _decisions(self, request: web.Request) -> web.Response:
        given = _known(request.query, "node", "key", "ip", "src", "dst", "port")
        if given.keys() == {"src", "dst", "port"}:
            return answer(self._view.explain(_party(given["src"]), _party(given["dst"]), given["port"]))
        if len(given) != 1 or not given.keys() <= {"node", "key", "ip"}:
            raise FormatError("expected exactly one of the parameters node, key and ip, or src, dst and port")
        ((name, text),) = given.items()
        subject: str | PublicKey | IPAddress
        if name == "node":
            subject = parse_node_id(text)
        else:
            # A raw '+' was decoded as a space. Keys contain no spaces.
            subject = PublicKey.parse(text.replace(" ", "+")) if name == "key" else parse_address(text)
        return answer(self._view.decide(subject))

    async def _whois(self, request: web.Request) -> web.Response:
        given = _known(request.query, "ip")
        if "ip" not in given:
            raise FormatError("expected the parameter ip, a tunnel address")
        found = self._view.whois(parse_address(given["ip"]))
        return problem(404, "no member has this address") if found is None else answer(found)

    async def _auth(self, request: web.Request) -> web.Response:
        """Identify a reverse proxy's client.

        Replies 200 with the identity in headers, 401 for a client outside of the network, and 403
        for a member that the parameters exclude.
        """
        # With a path appended, the query is the client's own and must not grant access.
        query = request.query if request.path == FORWARD_AUTH else MultiDict[str]()
        allowed = {name: query.getall(name, []) for name in ("node", "owner")}
        if query.keys() - allowed.keys() or any(len(x) > MOST_NAMES for x in allowed.values()):
            return problem(403, f"forward-auth takes node= and owner=, up to {MOST_NAMES} of each")
        if (peer := peer_of(request)) is None:
            return problem(401, "the connection has no address")
        try:
            client = behind(request, peer, self._policy.proxies)
        except FormatError as error:
            return problem(401, str(error))
        found = self._view.whois(client)
        if found is None:
            ours = self._view.is_ours(client)
            return problem(403 if ours else 401, "no member of the network has the client's address")
        owners = [owner.lower() for owner in allowed["owner"]]
        if any(allowed.values()) and found["node"] not in allowed["node"] and found["owner"] not in owners:
            return problem(403, "another member of the network has the client's address")
        return answer(found, headers=_identity(found))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        given = _known(request.query, "backlog", "wait", "last_event_id")
        last_id = request.headers.get("Last-Event-ID") or given.get("last_event_id", "")
        backlog = _number(given, "backlog", _MOST_BACKLOG) or 0
        wait = _number(given, "wait", _MOST_WAIT)
        source = source_of(request, self._policy.sources)
        stream = await self.streams.serve(request, source, last_id=last_id, backlog=backlog, wait=wait)
        if stream is None:
            return problem(503, "too many clients are reading events", {"Retry-After": "10"})
        return stream

    async def _version(self, _: web.Request) -> web.Response:
        return answer(self._view.version)

    async def _describe(self, _: web.Request) -> web.Response:
        return answer(self._openapi)


def _party(text: str) -> str | IPAddress:
    """Return an address, or else a node id."""
    try:
        return parse_address(text)
    except FormatError:
        return parse_node_id(text)


def _identity(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the client's identity as headers for the proxied application.

    A node id is safe in a header: it has up to 63 letters, digits, '.', '_' and '-'.
    """
    return {
        "Remote-User": found["node"],
        "X-Vpn-Node": found["node"],
        "X-Vpn-Owner": found["owner"],
        "X-Vpn-Token": str(found["token"]),
        "X-Vpn-Key": found["public_key"],
        "X-Vpn-Address": found["ip"],
    }


def _known(query: MultiMapping[str], *names: str) -> dict[str, str]:
    """Return the parameters; raises `FormatError` for an unknown or repeated one."""
    if unknown := query.keys() - set(names):
        raise FormatError(f"unknown parameter {min(unknown)!r:.40}: expected {', '.join(names)}")
    if any(len(query.getall(name)) > 1 for name in query):
        raise FormatError("a parameter is repeated")
    return dict(query)


def _number(given: Mapping[str, str], name: str, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise FormatError(f"{name}: expected a number from 0 to {most}")
    return int(text)
