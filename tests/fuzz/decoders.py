"""The fuzzed decoders of outside bytes, each with the only errors that it may raise.

A decoder returns the decoded value, or None for an input that it ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.fuzz import chain, composed, policy, relaying, verifiers, zone

from dstack_vpn.adapters.admin import keystore
from dstack_vpn.adapters.attest.verify import report_of
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.contracts import invitations
from dstack_vpn.adapters.device import uapi
from dstack_vpn.config import parsers
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.paths.port_forward import parse_forwards
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.errors import ConfigError, DeviceError, EndpointError, FormatError


@dataclass(frozen=True, slots=True)
class Decoder:
    """A function of an input, and the errors that it may raise."""

    feed: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = ()


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


DECODERS: Final = {
    # data of an RPC endpoint
    "jsonrpc": Decoder(chain.messages, (EndpointError,)),
    "retry-after": Decoder(chain.retry_after),
    "log": Decoder(chain.subscriptions, (EndpointError,)),
    "event": Decoder(chain.event, (FormatError,)),
    "state": Decoder(chain.state, (FormatError,)),
    "multicall": Decoder(chain.multicall, (EndpointError,)),
    "revert": Decoder(chain.revert),
    "abi": Decoder(chain.abi, (FormatError,)),
    "tags": Decoder(invitations.parse_tags, (FormatError,)),
    # texts of the chain
    "token-uri": Decoder(chain.token_uri),
    "reach": Decoder(chain.peer_endpoint, (FormatError,)),
    # texts of a minter
    "invitation": Decoder(chain.invitation, (FormatError,)),
    "invitation-code": Decoder(_text(InvitationCode.decode), (FormatError,)),
    # files of an administrator
    "enrolment": Decoder(_text(chain.enrolment), (FormatError,)),
    "keystore": Decoder(_text(keystore.parse), (ConfigError,)),
    # policy
    "policy": Decoder(_text(policy.document), (TextError,)),
    "members": Decoder(policy.members),
    "quorum": Decoder(verifiers.rounds),
    "http": Decoder(policy.request),
    # WireGuard devices
    "uapi": Decoder(composed.uapi_answer, (DeviceError,)),
    "uapi-status": Decoder(lambda data: uapi.refusal(uapi.parse_status(data)), (DeviceError,)),
    "netlink": Decoder(composed.netlink_answer, (DeviceError,)),
    "dump": Decoder(composed.device_dump, (DeviceError,)),
    # relays
    "frames": Decoder(relaying.scanned),
    "stream": Decoder(relaying.streamed),
    # DNS
    "dns": Decoder(zone.question),
    "dns-forward": Decoder(zone.foreign, (FormatError,)),
    "dns-answer": Decoder(zone.elsewhere),
    # settings
    "settings": Decoder(composed.settings, (ConfigError,)),
    "relay-settings": Decoder(composed.relay_settings, (ConfigError,)),
    "toml": Decoder(composed.toml_file, (ConfigError,)),
    "urls": Decoder(_text(parsers.urls), (ValueError,)),
    "rpc-url": Decoder(_text(RpcUrl.parse), (FormatError,)),
    "endpoints": Decoder(_text(parsers.endpoints), (ValueError,)),
    "relay-listen": Decoder(_text(parsers.relay_listen), (ValueError,)),
    "networks": Decoder(_text(parsers.networks), (ValueError,)),
    "forwards": Decoder(_text(parse_forwards), (FormatError,)),
    # files
    "wgconf": Decoder(composed.wg_config, (FormatError,)),
    "record": Decoder(composed.record, (FormatError,)),
    # attestation
    "quote": Decoder(report_of, (FormatError,)),
    "event-log": Decoder(composed.event_log, (FormatError,)),
    "attest": Decoder(composed.attestation, (FormatError,)),
}
