"""Loading of the settings from the command line, the environment and a TOML file.

A flag takes precedence over the environment, and the environment over the file. A command may use a
last source: the settings of the daemon that runs on this machine. All problems are found in one
pass and reported together, each with the variable, the problem and an example; nothing is changed
before that. Only this module reads the environment.
"""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from dstack_vpn.config import parsers, relay
from dstack_vpn.config.nearest import nearest
from dstack_vpn.config.options import COMPONENTS, LEVELS, OPTIONS, Option
from dstack_vpn.config.proxies import proxy_texts, settle_proxies
from dstack_vpn.config.relay import RELAY_OPTIONS, RelaySettings
from dstack_vpn.config.secret_file import read_secret, without_mark
from dstack_vpn.config.settings import Network, Settings
from dstack_vpn.core.exit_routing import MARK
from dstack_vpn.core.paths.selector import TransportMode
from dstack_vpn.errors import ConfigError

DEFAULT_FILE: Final = Path("/etc/dstack-vpn/config.toml")
KEY_FILE: Final = "wireguard.key"
"""The file in the state directory with the generated key."""
_HEADS: Final = 15.0
_HTTP_POLLS: Final = 5.0
_FULL_POLLS: Final = 1.0
"""Default seconds between polls."""
_MTU: Final = 1420
_MTU_RELAYED: Final = 1360
"""Fits in a segment of 1,440 bytes with WireGuard's 32 bytes, a frame's 2 and TLS's 22."""
_T = TypeVar("_T")


def load(
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    *,
    need: frozenset[str] = frozenset(),
    last: Mapping[str, str] | None = None,
) -> Settings:
    """Load and validate all settings; raises `ConfigError` with all problems.

    ``flags`` are by option key. ``file`` is the TOML file; the default is the one that
    ``CONFIG_FILE`` names, or /etc/dstack-vpn/config.toml if it exists. ``need`` names the required
    options. ``last`` has texts by variable, in the form of `Settings.texts`, for options that no
    other source sets.
    """
    return _load(OPTIONS, _settle, SettingSources(flags or {}, environment, file, last or {}), need)


def look_up(key: str, flags: Mapping[str, str] | None = None, file: Path | None = None) -> str | None:
    """Return the text of one option as `load` finds it, without validation; None if it is unset."""
    sources = SettingSources(flags or {}, None, file, {})
    option = next(option for option in OPTIONS if option.key == key)
    found = _gather([option], sources, _read_file(sources.file, sources.environment, []), [])
    return found.get(option.name)


def load_relay(
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> RelaySettings:
    """Load and validate the settings of a relay; raises `ConfigError` with all problems."""
    sources = SettingSources(flags or {}, environment, file, {})
    return _load(RELAY_OPTIONS, relay.settle, sources, frozenset({"RELAY_MODE"}))


def load_either(
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings | RelaySettings:
    """Load a relay's settings if ``RELAY_MODE`` is set, else a node's."""
    environment = os.environ if environment is None else environment  # noqa: TID251 - the one place
    if environment.get("RELAY_MODE"):
        return load_relay(flags, environment, file)
    return load(flags, environment, file)


class SettingSources:
    """The sources of settings, in order of precedence."""

    def __init__(
        self,
        flags: Mapping[str, str],
        environment: Mapping[str, str] | None,
        file: Path | None,
        last: Mapping[str, str],
    ) -> None:
        self.flags, self.file, self.last = flags, file, last
        self.environment: Mapping[str, str] = (
            os.environ if environment is None else environment  # noqa: TID251 - the one place
        )


def _load(
    options: Sequence[Option],
    settle: Callable[[dict[str, Any], dict[str, str], list[str]], _T | None],
    sources: SettingSources,
    need: frozenset[str],
) -> _T:
    environment, problems = sources.environment, list[str]()
    texts = _gather(options, sources, _read_file(sources.file, environment, problems), problems)
    values = {option.key: _parse(option, texts.get(option.name), problems) for option in options}
    values["exposed"] = _exposed(options, environment)
    values["unknown"] = _unknown(environment)
    values["texts"] = _public(options, texts) | proxy_texts(environment, sources.last)
    missing = (option for option in options if option.name in need and option.name not in texts)
    problems += [_problem(option, "is not set") for option in missing]
    settings = settle(values, _component_levels(environment, problems), problems)
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def _settle(values: dict[str, Any], levels: dict[str, str], problems: list[str]) -> Settings | None:
    """Set the values that depend on other settings, and check combinations."""
    network: Network | None = values["network"]
    if network is None:
        return None
    values["rpc_url"] = values["rpc_url"] or network.rpc_urls
    default = "full" if network.block_time is None else "economy"
    if values["revoke_early"] is not None and not any(map(_is_websocket, values["rpc_url"])):
        problems.append(
            "REVOKE_EARLY: pre-confirmed events are announced over WebSocket, and RPC_URL has only HTTP "
            "endpoints: add one that begins with wss://. Example: REVOKE_EARLY=0"
        )
    values["follow"] = values["follow"] or default
    values["chain_id"] = values["chain_id"] or network.chain_id
    values["contract_address"] = values["contract_address"] or network.contract
    if values["contract_address"] is None and not problems:
        problems.append(
            f"CONTRACT_ADDRESS is not set, and the network {network.name} has no default. "
            "Example: CONTRACT_ADDRESS=0x37d2106bADB01dd5bE1926e45D172Cb4203C4186"
        )
    if values["interface"] is not None and values["wireguard_config"] is None:
        values["wireguard_config"] = Path(f"/etc/wireguard/{values['interface']}.conf")
    if values["mtu"] is None:
        values["mtu"] = (
            _MTU if values["transport"] in {TransportMode.AUTO, TransportMode.UDP} else _MTU_RELAYED
        )
    if values["exit_node"] and values["fwmark"] is None:
        values["fwmark"] = MARK
    values["proxies"] = settle_proxies(values["texts"], values["rpc_url"] or (), problems)
    _settle_times(values, problems)
    _check_quorum(values, problems)
    _check_key_age(values, problems)
    _settle_key(values, problems)
    return None if problems else Settings(**values, log_levels=levels)


def _is_websocket(url: str) -> bool:
    return url.lower().startswith(("ws://", "wss://"))


def _settle_times(values: dict[str, Any], problems: list[str]) -> None:
    """Convert milliseconds to seconds; a resync must happen before the state becomes too old."""
    for name in ("sync_interval", "head_interval", "max_staleness", "key_max_age"):
        if values[name] is not None:
            values[name] /= 1000
    economy, interval = values["follow"] == "economy", values["head_interval"]
    values["head_interval"] = (interval or _HEADS) if economy else None
    values["poll_interval"] = (interval or _HTTP_POLLS) if economy else _FULL_POLLS
    interval, limit = values["sync_interval"], values["max_staleness"]
    if interval is not None and limit is not None and limit < 2 * interval:
        problems.append(
            f"MAX_STALENESS: {limit:g} s is less than two times SYNC_INTERVAL: resyncs must be more "
            f"frequent. Example: MAX_STALENESS={10 * interval:.0f}s"
        )


def _check_quorum(values: dict[str, Any], problems: list[str]) -> None:
    """Check that enough hosts are configured; URLs of one host count as one verifier."""
    hosts = len(parsers.sites(values["rpc_url"]))
    if values["rpc_quorum"] is not None and values["rpc_quorum"] > hosts:
        problems.append(
            f"RPC_QUORUM: {values['rpc_quorum']} endpoints must agree, but RPC_URL names only {hosts} "
            f"on different hosts: add endpoints, or lower it. Example: RPC_QUORUM={hosts}"
        )


def _check_key_age(values: dict[str, Any], problems: list[str]) -> None:
    """Check that the key can be rotated: it must be generated, and the contract must support it.

    A command without a key may use the daemon's settings, so a missing key is not an error.
    """
    if not values["key_max_age"]:
        return
    if values["wireguard_private_key"] not in {None, parsers.GENERATE}:
        problems.append(
            "KEY_MAX_AGE: the daemon can rotate only a key of WIREGUARD_PRIVATE_KEY=generate. Change another "
            "key with 'keygen' and 'node update-key'; a key of dstack can't change. Example: KEY_MAX_AGE=0"
        )
    if values["contract_abi"] == "dstack-access-nft":
        problems.append(
            "KEY_MAX_AGE: the contract is a dstack-access-nft, which can't change keys. "
            "Example: KEY_MAX_AGE=0"
        )


def _settle_key(values: dict[str, Any], problems: list[str]) -> None:
    """Set the key's file, and read a generated key from the state directory if it exists."""
    values["key_file"] = None
    values["key_from_agent"] = values["wireguard_private_key"] == parsers.DSTACK
    if values["key_from_agent"]:
        values["wireguard_private_key"] = None
    if values["wireguard_private_key"] != parsers.GENERATE or values["state_dir"] is None:
        return
    path = values["key_file"] = values["state_dir"] / KEY_FILE
    option = next(option for option in OPTIONS if option.key == "wireguard_private_key")
    try:
        text = _read_secret(option, path, problems) if path.exists() else None
    except OSError as error:  # an inaccessible directory, or too long a name
        problems.append(f"STATE_DIR: {path}: {error.strerror}. Example: STATE_DIR=/var/lib/dstack-vpn")
        return
    values["wireguard_private_key"] = _parse(option, text, problems)


def _exposed(options: Sequence[Option], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets in the environment; a list of relays is a secret only with a password."""
    return tuple(
        option.name
        for option in options
        if option.secret
        and (text := environment.get(option.name))
        and text not in {parsers.GENERATE, parsers.DSTACK}
        and (option.name != "RELAY_TO" or "@" in text)
    )


def _gather(
    options: Sequence[Option], sources: SettingSources, file: Mapping[str, str], problems: list[str]
) -> dict[str, str]:
    """Return each option's text by name, from the first source that has one.

    A secret's file is returned by its own variable.
    """
    environment, last, texts = sources.environment, sources.last, dict[str, str]()
    for option in options:
        flag, path = sources.flags.get(option.key), None
        text = flag or environment.get(option.name) or file.get(option.key)
        if option.secret and not flag:
            path = environment.get(f"{option.name}_FILE") or file.get(f"{option.key}_file")
        if not text and not path:
            text, path = last.get(option.name), last.get(f"{option.name}_FILE")
        if option.secret:
            if text == parsers.GENERATE and path:
                text = None  # an image or a compose file may set it as a default
            if text and path:
                problems.append(f"{option.name} and {option.name}_FILE are both set: keep one")
            elif path:
                text, texts[f"{option.name}_FILE"] = _read_secret(option, Path(path), problems), path
        if text:
            texts[option.name] = text
    return texts


def _public(options: Sequence[Option], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts from which another process loads the same settings; secrets as files."""
    secret = {
        o.name for o in options if o.secret and texts.get(o.name) not in {parsers.GENERATE, parsers.DSTACK}
    }
    return {name: text for name, text in texts.items() if name not in secret}


def _unknown(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables with names similar to a setting's: "NETWROK (did you mean NETWORK?)"."""
    every = (*OPTIONS, *RELAY_OPTIONS)
    known = {option.name for option in every} | {f"{option.name}_FILE" for option in every if option.secret}
    known |= {"CONFIG_FILE", *(f"LOG_LEVEL_{component.upper()}" for component in COMPONENTS)}
    return tuple(
        f"{name} (did you mean {near}?)"
        for name in sorted(environment.keys() - known)
        if (near := nearest(name, known - environment.keys())) is not None
    )


def _parse(option: Option, text: str | None, problems: list[str]) -> Any:  # noqa: ANN401 - by option
    text = option.default if text is None else text
    if text is None:
        return None
    try:
        return option.parse(text)
    except ValueError as error:
        problems.append(_problem(option, str(error)))
        return None


def _problem(option: Option, what: str) -> str:
    where = f"{option.name} (or {option.name}_FILE)" if option.secret else option.name
    return f"{where}: {what}. Example: {option.name}={option.example}"


def _component_levels(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    levels = {}
    for component in COMPONENTS:
        name = f"LOG_LEVEL_{component.upper()}"
        if text := environment.get(name):
            if text not in LEVELS:
                problems.append(f"{name}: expected one of {', '.join(LEVELS)}. Example: {name}=debug")
            levels[component] = text
    return levels


def _read_file(path: Path | None, environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """Return the TOML file's settings as texts by key."""
    if path is None:
        named = environment.get("CONFIG_FILE")
        path = Path(named) if named else DEFAULT_FILE
        if not named and not path.exists():
            return {}
    try:
        document = tomllib.loads(without_mark(path.read_bytes()).decode())
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        problems.append(f"CONFIG_FILE: {path}: {error}. Example: CONFIG_FILE={DEFAULT_FILE}")
        return {}
    every = (*OPTIONS, *RELAY_OPTIONS)  # a node and a relay may share a file
    known = {option.key for option in every} | {f"{o.key}_file" for o in every if o.secret}
    for key in sorted(document.keys() - known):
        near = nearest(key, known)
        hint = "" if near is None else f": did you mean {near!r}?"
        problems.append(f"CONFIG_FILE: {path} sets {key!r}, which is not a setting{hint}")
    return {key: _flat(value) for key, value in document.items() if key in known}


def _flat(value: object) -> str:
    """Return a TOML value as the text of an environment variable."""
    match value:
        case bool():
            return "1" if value else "0"
        case list():
            return ",".join(map(str, value))
        case dict():
            return ",".join(f"{key}={item}" for key, item in value.items())
        case _:
            return str(value)


def _read_secret(option: Option, path: Path, problems: list[str]) -> str | None:
    return read_secret(f"{option.name}_FILE", path, problems)
