"""A node's HTTP server: the API and the dashboard, with the access that the settings allow."""

from dstack_vpn.adapters.keys.guest_agent import GuestAgent
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.api import Api
from dstack_vpn.adapters.web.attestation import Attestation
from dstack_vpn.adapters.web.page import Page
from dstack_vpn.adapters.web.server import HttpServer
from dstack_vpn.config import Settings
from dstack_vpn.wiring.view import NodeView


async def serve_node(view: NodeView, settings: Settings) -> None:
    """Serve until cancelled."""
    policy = Policy(
        None if settings.api_token is None else settings.api_token.reveal(),
        loopback="loopback" in settings.api_open_to,
        users="users" in settings.api_open_to,
        proxies=settings.api_trusted_proxies,
        suffix=settings.dns_suffix,
        is_member=view.is_member if "vpn" in settings.api_open_to else None,
        members=view.addresses,
    )
    api = Api(view, policy)
    address = settings.health_check_host, settings.health_check_port
    agent = GuestAgent(settings.dstack_simulator_endpoint) if settings.key_from_agent else None
    attestation = Attestation(view.own_key, None if agent is None else agent.attestation)
    server = HttpServer(*address, policy, view.health, [api, Page(), attestation])
    view.served_by(server, api.streams)
    view.counted()
    view.watch("api", lambda: server.problem)
    view.watch("metrics", lambda: server.problem or api.metrics_problem)
    await server.run()
