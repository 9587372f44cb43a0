"""Writes docs/configuration.md from the table of settings; ``--check`` only compares."""

import sys
from pathlib import Path

from dstack_vpn.cli.relay import flag_of
from dstack_vpn.config import COMPONENTS, OPTIONS, RELAY_OPTIONS, Option

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
<!-- Made by scripts/generate_docs.py from the table of settings: change that, then run `make docs`. -->
# Configuration

Every setting is an environment variable, a flag and a key in a TOML file. Where several name the same one,
the environment comes first, then the flag, then the file. The file is `--config FILE`, else the one that
`CONFIG_FILE` names, else `/etc/dstack-vpn/config.toml` if there is one.

All problems are reported at once, each with the variable, what is wrong and an example; the exit code is
then 78, and nothing has been touched.

Secrets have no flag, because every user of a machine can read a process's arguments. Give them by a file
that only its owner can read (`…_FILE`; a file that others can read is refused), or by the environment.

| variable | flag | default | meaning | example |
|---|---|---|---|---|
"""

RELAY_HEAD = """
## The relay

`dstack-vpn relay` has these settings, besides those for health checks and logs, and the mode as a command
(`relay udp2tcp`, `relay tcp2udp`).

| variable | flag | default | meaning | example |
|---|---|---|---|---|
"""

TAIL = f"""
## Components and files

`LOG_LEVEL_<COMPONENT>` sets the level of one component: {", ".join(f"`{c.upper()}`" for c in COMPONENTS)}.

A file says the same in lower case:

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
    """A line of a table."""
    name = f"`{option.name}`" + (f", `{option.name}_FILE`" if option.secret else "")
    flag = "" if flag is None else f"`{flag}`"
    default = f"`{option.default}`" if option.default else ""
    example = option.example if option.secret else f"`{option.example}`"
    return f"| {name} | {flag} | {default} | {option.help} | {example} |\n"


def main() -> int:
    """Write or check; returns the exit code."""
    node = (row(option, None if option.secret else option.flag) for option in OPTIONS)
    shared = {option.name for option in OPTIONS} - {"RELAY_LISTEN"}
    relay = (row(option, flag_of(option)) for option in RELAY_OPTIONS if option.name not in shared)
    text = HEAD + "".join(node) + RELAY_HEAD + "".join(relay) + TAIL
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text)
        return 0
    if TARGET.exists() and TARGET.read_text() == text:
        return 0
    print(f"{TARGET.name} is not what the settings say: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
