"""The exit that a daemon would use now, for `plan`."""

from typing import TYPE_CHECKING

from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.access.exits import DEFAULTS, exit_candidate
from dstack_vpn.core.access.membership import Membership
from dstack_vpn.core.model import DeviceState
from dstack_vpn.wiring.policy_plan import reaching, selected

if TYPE_CHECKING:
    from dstack_vpn.wiring.policy import RegistryPolicy


def use_exit(
    settings: Settings,
    access: AccessControl,
    registry: "RegistryPolicy",
    membership: Membership,
    *,
    device: DeviceState | None,
    now: float,
) -> list[str]:
    """Let everything lead to the exit, as a daemon does that has just started; return notes.

    It can't know which exits are alive. The one that the device has stays. ``now`` is in Unix
    seconds.
    """
    if not settings.exit_node:
        return []
    own = access.decide(access.own_key, now)
    subject = access.subject(own.node) if own.node is not None and own.reason is Reason.OWN_KEY else None
    in_force = selected(settings, access, registry, now).in_force
    permitted = any(map(reaching(in_force, access.registry.contract.tag_names, subject), DEFAULTS.values()))
    candidates = [exit_candidate(access, name, lambda: permitted, now) for name in settings.exit_node]
    notes = [f"EXIT_NODE: {each.name} can't be used: {each.problem}" for each in candidates if each.problem]
    usable = [each for each in candidates if each.problem is None]
    if not usable:
        return [*notes, "EXIT_NODE: nothing leaves this machine, except control traffic"]
    peers = () if device is None else device.peers.values()
    has = {peer.public_key for peer in peers if not peer.allowed_ips.isdisjoint(DEFAULTS.values())}
    used = next((each for each in usable if each.key in has), usable[0])
    membership.move_networks({DEFAULTS[version]: used.token for version in used.versions})
    membership.rebuild(access, now)
    lacks = "".join(f"; IPv{version} is blocked" for version in DEFAULTS if version not in used.versions)
    return [*notes, f"EXIT_NODE: everything leaves by {used.name}{lacks}"]
