"""`relay`: WireGuard over TCP or TLS, for networks that block UDP."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import click

from dstack_vpn import config
from dstack_vpn.cli.completing import one_of
from dstack_vpn.config import RELAY_OPTIONS, TCP2UDP, UDP2TCP, Option, RelaySettings
from dstack_vpn.core.paths.relay_url import has_password

_NAMES = {"RELAY_LISTEN": "--listen", "RELAY_TO": "--to"}
_VISIBLE: Final = "RELAY_TO"
"""A secret with a flag: only a proxy's password makes it secret, and the flag refuses passwords."""
_LEFT_OUT = ("RELAY_MODE", "PROXY_PORT", "DSTACK_SIMULATOR_ENDPOINT")


def flag_of(option: Option) -> str | None:
    """Return a relay's flag for a setting; None if it has none."""
    if option.name in _LEFT_OUT or (option.secret and option.name != _VISIBLE):
        return None
    return _NAMES.get(option.name, option.flag.replace("--relay-", "--"))


def _relay_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each setting of a relay."""
    for option in reversed(RELAY_OPTIONS):
        flag = flag_of(option)
        if flag is None:
            continue
        default = f" [default: {option.default}]" if option.default else ""
        command = click.option(
            flag,
            option.key,
            type=one_of(option),
            metavar="|".join(option.choices) or "TEXT",
            help=f"{option.help}{default}",
        )(command)
    path = click.Path(path_type=Path, dir_okay=False)
    return click.option("--config", "config_file", type=path, help="A TOML file with settings.")(command)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Without a command, RELAY_MODE selects it, and RELAY_LISTEN and RELAY_TO are its settings:
  RELAY_MODE=tcp2udp PROXY_PORT=443 RELAY_TO=127.0.0.1:51820 dstack-vpn relay""",
)
@click.pass_context
def relay(context: click.Context) -> None:
    """Carry WireGuard over TCP or TLS, in the format of Mullvad's udp-over-tcp."""
    if context.invoked_subcommand is None:
        _run({}, None)


@relay.command(
    epilog="""\b
Examples:
  dstack-vpn relay udp2tcp --listen 127.0.0.1:51821 --to tls://vpn.example.org:443
  dstack-vpn relay udp2tcp --listen 127.0.0.1:51821 --to tls://INSTANCE-443s.DOMAIN:443?pin=sha256:…,tcp://192.0.2.7:443
Then set WireGuard's endpoint to 127.0.0.1:51821.""",
)
@_relay_options
def udp2tcp(config_file: Path | None, **values: str | None) -> None:
    """Receive WireGuard's datagrams, and carry them over TCP or TLS.

    Several upstreams are tried in order. The upstream in use is replaced if it fails, stalls or is
    much slower than another. SIGHUP reads the settings again.
    """
    _run({"relay_mode": UDP2TCP, **_given(values)}, config_file)


@relay.command(
    epilog="""\b
Examples:
  dstack-vpn relay tcp2udp --listen tcp://0.0.0.0:443 --to 127.0.0.1:51820
  dstack-vpn relay tcp2udp --listen tls://0.0.0.0:443 --to 127.0.0.1:51820
The second creates a certificate, and logs the pin that clients should check.""",
)
@_relay_options
def tcp2udp(config_file: Path | None, **values: str | None) -> None:
    """Accept TCP or TLS connections, and pass their datagrams to WireGuard."""
    _run({"relay_mode": TCP2UDP, **_given(values)}, config_file)


def _given(values: dict[str, str | None]) -> dict[str, str]:
    if has_password(values.get("relay_to") or ""):
        raise click.UsageError(
            "--to: all users of this machine can read arguments, and so the proxy's password: put the URL "
            "into a file, and set RELAY_TO_FILE to its path"
        )
    return {key: text for key, text in values.items() if text is not None}


def _run(flags: dict[str, str], file: Path | None) -> None:
    def read() -> RelaySettings:
        return config.load_relay(flags, file=file)

    settings = read()
    from dstack_vpn.wiring import relay as wiring

    main: Callable[..., Coroutine[Any, Any, None]] = wiring.run
    if not sys.stderr.isatty() or settings.log_format == "json":
        _loop()(main(settings, read, None))
        return
    from dstack_vpn.cli.relay_line import LiveLine

    with LiveLine() as line:
        _loop()(main(settings, read, line.show))


def _loop() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return the faster event loop, if it is available."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run
