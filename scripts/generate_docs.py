"""Generate docs/configuration.md, docs/logs.md, the events in docs/api.md, and .env.example.

``--check`` compares the files with the code and writes nothing.

Run it as a module: ``python -m scripts.generate_docs``.
"""

import sys
import textwrap
from pathlib import Path

from scripts import logbook

from dstack_vpn.adapters.logs import AREAS
from dstack_vpn.cli.relay import flag_of
from dstack_vpn.config import COMPONENTS, OPTIONS, RELAY_OPTIONS, Option

ROOT = Path(__file__).parents[1]
SHARED = {option.name for option in OPTIONS} - {"RELAY_LISTEN"}
"""The settings that a relay and a node share."""
GROUPS = {
    "chain": (
        *("NETWORK", "RPC_URL", "CHAIN_ID", "CONTRACT_ADDRESS", "CONTRACT_ABI", "START_BLOCK"),
        *(
            "RPC_QUORUM",
            "FOLLOW",
            "HEAD_INTERVAL",
            "REVOKE_EARLY",
            "SYNC_INTERVAL",
            "GRANT_CONFIRMATIONS",
            "MAX_STALENESS",
            "STALE_POLICY",
        ),
        "RPC_DAILY_CALLS",
    ),
    "identity and keys": (
        *("NODE_ID", "WIREGUARD_PRIVATE_KEY", "CONTRACT_PRIVATE_KEY", "KEY_MAX_AGE", "STATE_DIR"),
        *("CONTRACT_KEYSTORE_PASSWORD", "DSTACK_SIMULATOR_ENDPOINT"),
    ),
    "network": (
        *("VPN_CIDR", "INTERFACE", "LISTEN_PORT", "MTU", "BACKEND", "KEEP_INTERFACE", "WIREGUARD_CONFIG"),
        *("LEAK_PROTECTION", "FORWARD_TO", "ROUTE_SNAT", "ACCEPT_ROUTES", "EXIT_NODE", "EXIT_ALLOW_LAN"),
        "POLICY_FILE",
        *("PEER_ENDPOINTS", "PEER_ENDPOINT_TEMPLATE", "PERSISTENT_KEEPALIVE", "TRANSPORT", "FWMARK"),
        *("RELAY_LISTEN", "RELAY_MODE", "RELAY_TO", "PROXY_PORT", "RELAY_MAX_CONNECTIONS"),
        *("RELAY_MAX_PER_SOURCE", "RELAY_IDLE_TIMEOUT", "RELAY_OFFLOAD"),
        *("DNS_PORT", "DNS_SUFFIX", "DNS_LISTEN", "DNS_UPSTREAM"),
    ),
    "logging and monitoring": (
        *(
            "LOG_LEVEL",
            "LOG_FORMAT",
            "AUDIT_KEEP_DAYS",
            "AUDIT_KEEP_MB",
            "HEALTH_CHECK_HOST",
            "HEALTH_CHECK_PORT",
        ),
        *("API_TOKEN", "API_OPEN_TO", "API_TRUSTED_PROXIES"),
    ),
}
"""The order of the settings in .env.example."""
EVENTS_BEGIN = "<!-- Made by scripts/generate_docs.py from the events: run `make docs`. -->"
EVENTS_END = "<!-- End of the table. -->"
COMPOSE = """
# -- for deploy/compose.production.yml only; the daemon does not read these --

# The images, each with a tag and its digest.
#DSTACK_VPN_IMAGE=registry.example.org/dstack-vpn/wireguard:0.1.0@sha256:DIGEST
#DSTACK_VPN_NET_IMAGE=registry.example.org/dstack-vpn/net:0.1.0@sha256:DIGEST
"""
ENV_HEAD = """\
# Made by scripts/generate_docs.py from the table of settings: change that, then run `make docs`.
# Copy this file to .env, and remove the number sign before each setting that you set.
# docs/configuration.md describes all settings. A secret is the path of a file that only its owner
# can read.
"""

HEAD = """\
<!-- Made by scripts/generate_docs.py from the table of settings: change that, then run `make docs`. -->
# Configuration

Each setting is an environment variable, a flag and a key in a TOML file. A flag overrides the
environment, and the environment overrides the file. The file is `--config FILE`, else the file that
`CONFIG_FILE` names, else `/etc/dstack-vpn/config.toml` if it exists.

All problems are reported at once, each with the variable, the error and an example. The exit code
is then 78, and nothing has been changed. A variable that differs from a setting's name in one or
two letters causes a warning.

Times have a unit: `500ms`, `30s`, `15m`, `24h`, `90d`. A plain number is in milliseconds, unless
the table states another unit.

`doctor`, `plan`, `config`, `audit` and `support-bundle` use the settings of the daemon that runs on
this machine, except those that the shell sets. The daemon keeps them in `STATE_DIR/settings.json`,
which only its user can read.

Secrets have no flag, because every user of a machine can read a process's arguments. Put a secret
into a file that only its owner can read and set `…_FILE` to its path, or use the environment. A
file that others can read is refused.

The variables of proxies are [below](#proxies-for-rpc-endpoints).

| variable | flag | default | meaning | example |
|---|---|---|---|---|
"""

RELAY_HEAD = """
## The relay

`dstack-vpn relay` has these settings, and those for health checks and logs. `HEALTH_CHECK_PORT` is
unset by default, except in the relay's container image. The mode is a command (`relay udp2tcp`,
`relay tcp2udp`).

| variable | flag | default | meaning | example |
|---|---|---|---|---|
"""

PROXIES = """
## Proxies for RPC endpoints

The daemon and all commands connect to RPC endpoints through an HTTP proxy if these variables name
one. They are read as curl reads them. They have no flag and no key in the file.

| variable | meaning |
|---|---|
| `HTTPS_PROXY` | The proxy for `https://` and `wss://` endpoints, through a tunnel (`CONNECT`). |
| `HTTP_PROXY` | The proxy for `http://` and `ws://` endpoints. It must forward `Upgrade` for `ws://`. |
| `ALL_PROXY` | The proxy for endpoints for which the above is unset. |
| `NO_PROXY` | Hosts that are reached directly, separated by commas. |

- A variable in lower case overrides the same variable in upper case. An empty variable counts as
  unset.
- The proxy is a URL such as `http://USER:PASSWORD@proxy.example.org:3128`. Without a scheme it is
  an HTTP proxy. User and password are percent-encoded. Logs and errors do not show them.
- An entry of `NO_PROXY` is a domain (which covers all names below it), an address, a network such
  as `10.0.0.0/8`, or `*` for all hosts. Names are not resolved for a comparison with addresses.
- A loopback address or `localhost` is never reached through a proxy.
- SOCKS proxies are not supported. A `socks5://` URL is refused if an endpoint would use it.
- Only RPC uses these proxies. The proxy of a peer's relay is in the relay URL (`?via=`). UDP has no
  proxy.
- `doctor` and the other commands that use the daemon's settings use its proxies too, unless the
  shell sets one of these variables.
"""

TAIL = f"""
## Components and files

`LOG_LEVEL_<COMPONENT>` sets the log level of one component. The components are:
{textwrap.fill(", ".join(f"`{c.upper()}`" for c in COMPONENTS), 100)}.

A file has the same names in lower case:

```toml
node_id = "web-1"
network = "base"
rpc_url = ["wss://rpc.example.org/KEY", "https://mainnet.base.org"]
wireguard_private_key_file = "/etc/dstack-vpn/wireguard.key"

[peer_endpoints]
db = "192.0.2.10:51820"
```
"""


def row(option: Option, flag: str | None) -> str:
    """Return a setting's row of the table."""
    name = f"`{option.name}`" + (f", `{option.name}_FILE`" if option.secret else "")
    flag = "" if flag is None else f"`{flag}`"
    default = f"`{option.default}`" if option.default else ""
    example = option.example if option.secret else f"`{option.example}`"
    return f"| {name} | {flag} | {default} | {option.help} | {example} |\n"


def reference() -> str:
    """Return docs/configuration.md."""
    node = (row(option, None if option.secret else option.flag) for option in OPTIONS)
    relay = (row(option, flag_of(option)) for option in RELAY_OPTIONS if option.name not in SHARED)
    return HEAD + "".join(node) + PROXIES + RELAY_HEAD + "".join(relay) + TAIL


def example() -> str:
    """Return .env.example; raises `ValueError` unless each option is in exactly one group."""
    known = {option.name: option for option in (*RELAY_OPTIONS, *OPTIONS)}
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(known):
        raise ValueError(f"add each setting to one group of GROUPS: {set(grouped) ^ set(known)} differ")
    parts = [ENV_HEAD]
    for title, names in GROUPS.items():
        parts += [f"\n# -- {title} --\n", *(entry(known[name]) for name in names)]
    return "".join([*parts, COMPOSE])


def entry(option: Option) -> str:
    """Return a setting as a commented-out variable, with its meaning above."""
    comment = textwrap.fill(option.help, 100, initial_indent="# ", subsequent_indent="# ")
    if option.secret:
        return f"\n{comment}\n#{option.name}_FILE=/run/secrets/{option.key}\n"
    if option.default:
        return f"\n{comment}\n#{option.name}={option.default}\n"
    return f"\n{comment}\n#{option.name}={option.example}\n"


def with_events(text: str) -> str:
    """Return docs/api.md with the current table of events; raises `ValueError` without marks."""
    before, _, rest = text.partition(EVENTS_BEGIN)
    _, _, after = rest.partition(EVENTS_END)
    if not after:
        raise ValueError("docs/api.md: the marks around the table of events are missing")
    return f"{before}{EVENTS_BEGIN}\n{logbook.events()}{EVENTS_END}{after}"


def main() -> int:
    """Write or check the files; return the exit code."""
    made = {
        ROOT / "docs" / "configuration.md": reference(),
        ROOT / "docs" / "logs.md": logbook.document(ROOT / "src", AREAS),
        ROOT / "docs" / "api.md": with_events((ROOT / "docs" / "api.md").read_text()),
        ROOT / ".env.example": example(),
    }
    if "--check" not in sys.argv[1:]:
        for path, text in made.items():
            path.write_text(text)
        return 0
    stale = [path.name for path, text in made.items() if not path.exists() or path.read_text() != text]
    for name in stale:
        print(f"{name} differs from the code: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
