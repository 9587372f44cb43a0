"""Each module has its own test file or a line in a table, and each test file has a module.

`src/dstack_vpn/a/b.py` is tested by `tests/unit/a/test_b.py`, and the code in a package's own file
by `tests/unit/a/test_a.py`. `COVERED` lists the modules without such a file, with the file that
covers them. `OTHERS` lists the files of `tests/unit` without such a module.

A covering file has to import the module, directly or through other modules. ``through`` names these
in order; each imports the next. An import counts anywhere in a file. A test file also imports the
`conftest` modules of its folder and of those above. Two ways to start a program count as imports:
``-m dstack_vpn`` as an argument, and a command's line in the table of `dstack_vpn.cli`.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = "dstack_vpn"
COMMANDS: Final = f"{PACKAGE}.cli"
"""The module with the table of commands: texts such as ``keys:keygen``."""


class Cover(NamedTuple):
    """The file that covers a module."""

    test: str
    """The path, relative to ``tests``."""
    reason: str
    """The reason why the module has no test file of its own."""
    through: str = ""
    """The modules between the test and the module, with `` > `` between them."""

    @property
    def waypoints(self) -> list[str]:
        """Return the full names of the modules between."""
        return [full_name(name) for name in self.through.split(" > ") if name]


def full_name(name: str) -> str:
    """Return a module's full name; the tables leave the package out."""
    return name if name.split(".", maxsplit=1)[0] in {"tests", "demo"} else f"{PACKAGE}.{name}"


COVERED: Final[Mapping[str, Cover]] = {
    "__main__": Cover("integration/test_admin_cli.py", "only a process runs it"),
    "adapters.admin.endpoints": Cover(
        "integration/test_admin_cli.py",
        "commands on a dev chain",
        "tests.commands > cli > cli.contract > cli.sending > wiring.node > adapters.admin.registry",
    ),
    "adapters.admin.invitations": Cover(
        "integration/test_invitations_cli.py",
        "commands on a dev chain",
        "tests.commands > cli > cli.invite > wiring.invitations",
    ),
    "adapters.admin.reading": Cover(
        "integration/test_admin_cli.py",
        "commands on a dev chain",
        "tests.commands > cli > cli.contract > cli.sending > wiring.node",
    ),
    "adapters.admin.registry": Cover(
        "integration/test_admin_cli.py",
        "commands on a dev chain",
        "tests.commands > cli > cli.contract > cli.sending > wiring.node",
    ),
    "adapters.attest.library": Cover(
        "unit/adapters/attest/test_verify.py",
        "the import of a library and its error",
        "adapters.attest.collateral",
    ),
    "adapters.chain.deployment": Cover(
        "conformance/chain/test_session.py",
        "one suite for both transports and chains",
        "adapters.chain > adapters.chain.session",
    ),
    "adapters.chain.identity": Cover("unit/adapters/chain/test_pool.py", "a pool compares identities"),
    "adapters.chain.logs": Cover(
        "unit/adapters/chain/test_ranges.py",
        "read over both transports",
        "tests.unit.adapters.chain.connecting > adapters.chain > adapters.chain.session",
    ),
    "adapters.chain.preconfirmed": Cover(
        "integration/test_node_early.py",
        "a subscription over a real WebSocket",
        "tests.integration.support > adapters.chain > adapters.chain.pool > adapters.chain.session",
    ),
    "adapters.chain.state": Cover(
        "unit/adapters/chain/test_ranges.py",
        "read over both transports",
        "tests.unit.adapters.chain.connecting > adapters.chain > adapters.chain.session",
    ),
    "adapters.chain.method_stats": Cover("unit/wiring/test_rpc_metrics.py", "counters that metrics show"),
    "adapters.chain.tip": Cover(
        "conformance/chain/test_session.py",
        "one suite for both transports and chains",
        "adapters.chain > adapters.chain.session",
    ),
    "adapters.chain.transport": Cover("unit/adapters/chain/test_caller.py", "a protocol and its outcomes"),
    "adapters.clock": Cover("unit/daemon/test_staleness.py", "two calls of the standard library"),
    "adapters.contracts.fields": Cover(
        "unit/adapters/contracts/test_logs.py",
        "fields of both contracts' logs and tokens",
        "adapters.contracts > adapters.contracts.access_registry",
    ),
    "adapters.destination": Cover("unit/adapters/relay/test_pktinfo.py", "control messages of real sockets"),
    "adapters.device.exit_table": Cover(
        "conformance/device/test_link.py",
        "one suite for all backends",
        "adapters.device.interface",
    ),
    "adapters.device.interface": Cover(
        "conformance/device/test_link.py", "one suite for all backends", "adapters.device.link"
    ),
    "adapters.device.kernel": Cover("kernel/test_netlink_kernel.py", "needs the kernel's own WireGuard"),
    "adapters.device.link": Cover("conformance/device/test_link.py", "one suite for all backends"),
    "adapters.device.netlink": Cover(
        "unit/adapters/device/test_wgnetlink.py", "messages over a netlink socket"
    ),
    "adapters.device.rtnetlink": Cover(
        "conformance/device/test_link.py",
        "one suite for all backends",
        "adapters.device.link > adapters.device.interface",
    ),
    "adapters.device.survey": Cover(
        "netns/test_ownership.py",
        "hosts with other programs' interfaces",
        "tests.netns.hosts > __main__ > cli > cli.daemon > wiring.daemon > wiring.ownership",
    ),
    "adapters.device.userspace": Cover(
        "conformance/device/test_userspace_link.py", "needs wireguard-go", "adapters.device.link"
    ),
    "adapters.relay.certs": Cover("unit/adapters/relay/test_tls.py", "certificates of real connections"),
    "adapters.relay.connect": Cover(
        "unit/adapters/relay/test_dial.py", "a part of dialling", "adapters.relay.dial"
    ),
    "adapters.relay.counters": Cover("unit/adapters/relay/test_backlog.py", "plain numbers"),
    "adapters.relay.downlink": Cover(
        "unit/adapters/relay/test_flow.py", "a pair of relays over real sockets", "adapters.relay.flow"
    ),
    "adapters.relay.engine": Cover("unit/adapters/relay/test_flow.py", "a pair of relays over real sockets"),
    "adapters.relay.inbox": Cover(
        "fuzz/test_fuzz.py",
        "hostile frames; a pair of relays in test_flow.py",
        "tests.fuzz.decoders > tests.fuzz.relaying > adapters.relay.engine",
    ),
    "adapters.relay.offload": Cover(
        "fuzz/test_fuzz.py",
        "hostile frames; a pair of relays in test_flow.py",
        "tests.fuzz.decoders > tests.fuzz.relaying",
    ),
    "adapters.relay.outbox": Cover(
        "fuzz/test_fuzz.py",
        "hostile frames; a pair of relays in test_flow.py",
        "tests.fuzz.decoders > tests.fuzz.relaying",
    ),
    "adapters.relay.sender": Cover(
        "unit/adapters/relay/test_direct.py",
        "a pair of relays over real sockets",
        "adapters.relay.direct > adapters.relay.uplink",
    ),
    "adapters.relay.sockets": Cover("unit/adapters/relay/test_dial.py", "options of real sockets"),
    "adapters.relay.udp2tcp": Cover("unit/adapters/relay/test_flow.py", "a pair of relays over real sockets"),
    "adapters.relay.uplink": Cover(
        "unit/adapters/relay/test_direct.py", "a pair of relays over real sockets", "adapters.relay.direct"
    ),
    "adapters.store.advice": Cover(
        "unit/adapters/store/test_sqlite.py", "a text for errors of both databases", "adapters.store.sqlite"
    ),
    "cli.bundle": Cover("netns/test_bundle.py", "the bundle of a real daemon", "__main__ > cli"),
    "cli.client": Cover(
        "integration/test_client_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli",
    ),
    "cli.contract": Cover("integration/test_admin_cli.py", "commands on a dev chain", "tests.commands > cli"),
    "cli.contract_info": Cover(
        "integration/test_contract_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.contract",
    ),
    "cli.contract_migrating": Cover(
        "integration/test_migrate_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.contract",
    ),
    "cli.contract_roles": Cover(
        "integration/test_contract_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.contract",
    ),
    "cli.invite": Cover(
        "integration/test_invitations_cli.py", "commands on a dev chain", "tests.commands > cli"
    ),
    "cli.keystore": Cover(
        "integration/test_keystore_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.invite",
    ),
    "cli.node": Cover("integration/test_admin_cli.py", "a group of commands", "tests.commands > cli"),
    "cli.node_enrolling": Cover(
        "integration/test_enrolment_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.node",
    ),
    "cli.node_joining": Cover(
        "integration/test_invitations_cli.py", "commands on a dev chain", "tests.commands > cli > cli.node"
    ),
    "cli.node_rights": Cover(
        "integration/test_rights_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.node",
    ),
    "cli.node_rotating": Cover(
        "netns/test_rotation.py", "a key rotation beside a daemon", "__main__ > cli > cli.node"
    ),
    "cli.options": Cover("unit/cli/test_cli.py", "flags of every command", "cli > cli.config"),
    "cli.sending": Cover(
        "integration/test_admin_cli.py", "commands on a dev chain", "tests.commands > cli > cli.contract"
    ),
    "cli.tables": Cover("unit/cli/test_layout.py", "every table at 80 columns"),
    "cli.policy": Cover(
        "integration/test_policy_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli",
    ),
    "cli.policy_explaining": Cover(
        "integration/test_policy_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.policy",
    ),
    "cli.policy_setting": Cover(
        "integration/test_policy_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.policy",
    ),
    "cli.tag": Cover(
        "integration/test_rights_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli",
    ),
    "config.parsers": Cover("unit/config/test_load.py", "by the settings that use them"),
    "config.settings": Cover("unit/config/test_load.py", "fields without logic", "config"),
    "core.access.addressing": Cover("property/test_membership.py", "properties over generated inputs"),
    "core.access.control": Cover("property/test_decisions.py", "properties over generated inputs"),
    "core.access.decisions": Cover("property/test_decisions.py", "properties over generated inputs"),
    "core.access.membership": Cover("property/test_membership.py", "properties over generated inputs"),
    "core.access.plan": Cover("property/test_plan.py", "properties over generated inputs"),
    "core.policy.rule_table": Cover("property/test_compiled_policy.py", "properties over generated inputs"),
    "core.policy.rules": Cover("property/test_compiled_policy.py", "classes without behaviour of their own"),
    "wiring.policy_metrics": Cover("unit/wiring/test_policy_view.py", "the same node shows them"),
    "core.access.quorum": Cover("property/test_quorum.py", "properties over generated inputs"),
    "core.access.replies": Cover("property/test_quorum.py", "properties over generated inputs"),
    "core.attest.measurements": Cover(
        "unit/adapters/attest/test_verify.py", "with quotes that are made for it"
    ),
    "core.attest.quote": Cover("unit/adapters/attest/test_verify.py", "with quotes that are made for it"),
    "core.chain.commands": Cover("property/test_follower.py", "a union without logic"),
    "core.chain.extension": Cover("property/test_follower.py", "a record"),
    "core.chain.events": Cover("property/test_registry.py", "a union without logic"),
    "core.chain.node": Cover("property/test_registry.py", "fields without logic"),
    "core.chain.registry": Cover("property/test_registry.py", "properties over generated inputs"),
    "core.observe.check": Cover("unit/cli/test_doctor.py", "fields without logic"),
    "core.observe.event": Cover("unit/core/observe/test_events.py", "the base of all events"),
    "core.observe.reports": Cover("unit/core/observe/test_health.py", "fields without logic"),
    "core.paths.destination": Cover("property/test_destination.py", "properties over generated inputs"),
    "core.paths.peer_endpoint": Cover("property/test_destination.py", "properties over generated inputs"),
    "daemon.chain.loop": Cover(
        "unit/daemon/test_daemon.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > daemon.daemon",
    ),
    "daemon.chain.progress": Cover(
        "integration/test_node_quorum.py", "the whole daemon on several endpoints"
    ),
    "daemon.chain.quorum_checker": Cover(
        "integration/test_node_quorum.py", "the whole daemon on several endpoints"
    ),
    "daemon.chain.quorum_session": Cover(
        "integration/test_node_quorum.py",
        "the whole daemon on several endpoints",
        "daemon.chain.quorum_checker",
    ),
    "daemon.chain.session": Cover(
        "unit/daemon/test_daemon.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > daemon.daemon > daemon.chain.loop",
    ),
    "daemon.chain.state": Cover(
        "unit/daemon/test_daemon.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > wiring.assembly",
    ),
    "daemon.chain.verifiers": Cover(
        "integration/test_node_quorum.py", "the whole daemon on several endpoints"
    ),
    "daemon.device.key_expiry": Cover(
        "integration/test_node_renewal.py", "the whole daemon with a key's file"
    ),
    "daemon.device.key_rotation": Cover(
        "unit/daemon/test_daemon.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > daemon.daemon",
    ),
    "daemon.device.own_keys": Cover(
        "unit/daemon/test_identity.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > daemon.daemon",
    ),
    "daemon.observe.answers": Cover("unit/daemon/test_moves.py", "the whole daemon on a scripted chain"),
    "daemon.observe.reporter": Cover(
        "unit/daemon/test_daemon.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > daemon.daemon",
    ),
    "daemon.peers.executor": Cover(
        "unit/daemon/test_daemon.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > wiring.assembly",
    ),
    "daemon.peers.paths": Cover(
        "unit/daemon/peers/test_path_keeper.py", "the keeper drives it", "daemon.peers.path_keeper"
    ),
    "daemon.peers.route_keeper": Cover(
        "unit/daemon/peers/test_routes.py",
        "the whole daemon on a scripted chain",
        "tests.unit.daemon.conftest > wiring.assembly",
    ),
    "errors": Cover("unit/cli/test_cli.py", "classes; commands turn them into exit codes"),
    "ports": Cover("unit/test_memory_device.py", "protocols"),
    "wiring.addresses": Cover("unit/cli/test_plan.py", "one function of the settings"),
    "wiring.assembly": Cover(
        "unit/daemon/test_daemon.py", "the list of the daemon's parts", "tests.unit.daemon.conftest"
    ),
    "wiring.attest": Cover("unit/cli/test_attest.py", "makes the objects of one command", "cli.attest"),
    "wiring.audit_log": Cover(
        "netns/test_audit.py", "the audit log of a real daemon", "tests.commands > cli > cli.audit"
    ),
    "wiring.bundle": Cover(
        "netns/test_bundle.py", "the bundle of a real daemon", "__main__ > cli > cli.bundle"
    ),
    "wiring.contract": Cover(
        "integration/test_contract_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.contract",
    ),
    "wiring.daemon": Cover(
        "integration/test_node_chain.py", "the whole daemon on a dev chain", "tests.integration.support"
    ),
    "wiring.dev": Cover("unit/cli/test_dev.py", "names for one command", "cli.dev"),
    "wiring.doctor": Cover("netns/test_doctor.py", "beside a real daemon", "__main__ > cli > cli.doctor"),
    "wiring.firewall": Cover(
        "netns/test_firewall.py",
        "nftables of a real host",
        "tests.netns.conftest > demo.lab > demo.node > __main__ > cli > cli.daemon > wiring.daemon",
    ),
    "wiring.invitations": Cover(
        "integration/test_invitations_cli.py",
        "commands on a dev chain",
        "tests.commands > cli > cli.invite",
    ),
    "wiring.keystore": Cover(
        "integration/test_keystore_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.invite > cli.keystore",
    ),
    "wiring.metrics": Cover("unit/wiring/test_peer_metrics.py", "the registry of all metrics"),
    "wiring.migration": Cover(
        "integration/test_migrate_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.contract > cli.contract_migrating",
    ),
    "wiring.names": Cover("unit/daemon/device/test_tunnel.py", "names of the daemon's own zone"),
    "wiring.node": Cover("unit/cli/test_node_reading.py", "makes the objects of the node commands"),
    "wiring.ownership": Cover(
        "netns/test_ownership.py",
        "hosts with other programs' interfaces",
        "tests.netns.hosts > __main__ > cli > cli.daemon > wiring.daemon",
    ),
    "wiring.policy": Cover(
        "integration/test_policy_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.policy",
    ),
    "wiring.exit_plan": Cover(
        "netns/test_exits.py",
        "plan beside a running daemon",
        "tests.netns.exits > tests.netns.clients > __main__ > cli > cli.plan",
    ),
    "wiring.policy_plan": Cover(
        "unit/cli/test_plan.py", "one function of the command", "tests.unit.cli.conftest > cli > cli.plan"
    ),
    "wiring.relay": Cover(
        "integration/relay/test_wire.py",
        "relays as processes",
        "tests.integration.relay.programs > __main__ > cli > cli.relay",
    ),
    "wiring.routes_plan": Cover(
        "unit/cli/test_plan.py", "one function of the command", "tests.unit.cli.conftest > cli > cli.plan"
    ),
    "wiring.rights": Cover(
        "integration/test_rights_cli.py",
        "commands on a dev chain",
        "tests.integration.test_admin_cli > tests.commands > cli > cli.tag",
    ),
    "wiring.running": Cover(
        "netns/test_doctor.py", "beside a real daemon", "__main__ > cli > cli.doctor > cli.options"
    ),
    "wiring.snapshot": Cover("unit/wiring/test_peer_metrics.py", "what metrics are made of"),
    "wiring.trust_metrics": Cover("integration/test_node_renewal.py", "metrics of a whole daemon"),
    "wiring.view": Cover("integration/test_node_events.py", "the API of a whole daemon"),
    "wiring.web": Cover(
        "integration/test_node_chain.py",
        "makes the objects of the HTTP server",
        "tests.integration.support > wiring.daemon",
    ),
}
"""The modules without a test file of their own."""

OTHERS: Final[Mapping[str, str]] = {
    "adapters/chain/test_proxy.py": "sessions through a real HTTP proxy",
    "core/policy/test_tailscale.py": "documented examples of another system, over several modules",
    "cli/test_hostile.py": "every flag and argument of every command",
    "cli/test_secrets.py": "every flag of every command",
    "daemon/test_destinations.py": "a rule of the whole daemon: endpoints inside the VPN",
    "daemon/test_clients.py": "a rule of the whole daemon: members behind a gateway",
    "daemon/test_expiry.py": "a rule of the whole daemon: clocks that are set back",
    "daemon/test_identity.py": "a rule of the whole daemon: keys that others register",
    "daemon/test_moves.py": "a rule of the whole daemon: endpoints that change",
    "daemon/test_staleness.py": "a rule of the whole daemon: a chain that is away",
    "test_construction.py": "the sources of wiring and the daemon",
    "test_deploy.py": "the files for deployments",
    "test_imports.py": "the imports of all modules",
    "test_licences.py": "the dependencies",
    "test_locks.py": "the lock files",
    "test_memory_device.py": "the tests' own device",
    "test_mirror.py": "the tests and the sources",
    "test_prose.py": "a script",
    "test_rpc_meter.py": "the benchmarks' own proxy",
    "test_scan_images.py": "a script",
    "test_threat_model.py": "the documents",
    "test_troubleshooting.py": "the documents",
}
"""The test files of `tests/unit` that do not mirror a module."""


@dataclass(frozen=True)
class Tree:
    """The files of the project, and what each module imports."""

    root: Path
    files: dict[str, Path] = field(init=False)
    """The files by module name."""

    def __post_init__(self) -> None:
        folders = {PACKAGE: f"src/{PACKAGE}", "tests": "tests", "demo": "demo"}
        roots = {name: self.root / folder for name, folder in folders.items()}
        found = ((path, name, folder) for name, folder in roots.items() for path in folder.rglob("*.py"))
        files = {module_of(path.relative_to(folder), name): path for path, name, folder in found}
        object.__setattr__(self, "files", files)

    @property
    def modules(self) -> dict[str, str]:
        """Return the test file that each module should have, relative to ``tests/unit``."""
        source = self.root / "src" / PACKAGE
        paths = (path.relative_to(source) for path in sorted(source.rglob("*.py")))
        return {
            ".".join(module_of(path, PACKAGE).split(".")[1:]) or "__init__": own_test(path)
            for path in paths
            if path.name != "__init__.py" or has_code(source / path)
        }

    @property
    def tests(self) -> set[str]:
        """Return the test files in ``tests/unit``, relative to it."""
        folder = self.root / "tests" / "unit"
        return {str(path.relative_to(folder)) for path in folder.rglob("test_*.py")}

    def imports(self, module: str) -> set[str]:
        """Return the modules of the project that a module imports."""
        path = self.files[module]
        found = set(names_in(path, commands=module == COMMANDS))
        if path.name.startswith("test_"):
            parts = module.split(".")[:-1]
            found |= {".".join([*parts[: n + 1], "conftest"]) for n in range(len(parts))}
        return found & self.files.keys()


def module_of(path: Path, package: str) -> str:
    parts = [package, *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_test(path: Path) -> str:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    return str(path.parent / f"test_{name}.py")


def has_code(path: Path) -> bool:
    """Return True if a file has a function or a class."""
    code = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(node, code) for node in ast.parse(path.read_text()).body)


@cache
def names_in(path: Path, *, commands: bool) -> frozenset[str]:
    """Return the names in a file that may be imported modules."""
    return frozenset(imported(ast.parse(path.read_text()), commands=commands))


def imported(tree: ast.Module, *, commands: bool) -> Iterator[str]:
    """Yield the names that may be imported modules."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Call(args=parts):
                texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
                if ("-m", PACKAGE) in pairwise(texts):
                    yield f"{PACKAGE}.__main__"
            case ast.Constant(value=str(text)) if commands and text.count(":") == 1:
                yield f"{COMMANDS}.{text.partition(':')[0]}"


def problems(tree: Tree, covered: Mapping[str, Cover], others: Mapping[str, str]) -> list[str]:
    """Return the problems of the files and the tables."""
    modules, tests = tree.modules, tree.tests
    mirrored = set(modules.values())
    return [
        *(
            f"{module}: has neither tests/unit/{test} nor a line in COVERED"
            for module, test in modules.items()
            if test not in tests and module not in covered
        ),
        *(f"{module}: is in COVERED and does not exist" for module in covered.keys() - modules.keys()),
        *(
            f"{module}: is in COVERED and has tests/unit/{modules[module]}"
            for module in covered.keys() & modules.keys()
            if modules[module] in tests
        ),
        *(problem for module, cover in covered.items() for problem in uncovered(tree, module, cover)),
        *(
            f"tests/unit/{test}: mirrors no module and is not in OTHERS"
            for test in tests - mirrored - others.keys()
        ),
        *(f"tests/unit/{test}: is in OTHERS and does not exist" for test in others.keys() - tests),
        *(f"tests/unit/{test}: is in OTHERS and mirrors a module" for test in others.keys() & mirrored),
    ]


def uncovered(tree: Tree, module: str, cover: Cover) -> Iterator[str]:
    """Yield the imports that are missing between a covering test and its module."""
    test = module_of(Path(cover.test), "tests")
    if test not in tree.files:
        yield f"{module}: tests/{cover.test} does not exist"
        return
    for one, next_one in pairwise([test, *cover.waypoints, full_name(module)]):
        if one not in tree.files or next_one not in tree.imports(one):
            yield f"{module}: {one} does not import {next_one}"


def test_each_module_has_its_test() -> None:
    found = problems(Tree(ROOT), COVERED, OTHERS)
    assert not found, "\n".join(["", *found])


def test_each_line_has_a_reason() -> None:
    assert all(cover.reason for cover in COVERED.values())
    assert all(OTHERS.values())


# -- the check itself ------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a project: a module with its test, one that another test covers, and a command."""
    files = {
        "src/dstack_vpn/__init__.py": "__version__ = '1'",
        "src/dstack_vpn/__main__.py": "from dstack_vpn.cli import run",
        "src/dstack_vpn/cli/__init__.py": "COMMANDS = {'keygen': 'keys:keygen'}\ndef run(): ...",
        "src/dstack_vpn/cli/keys.py": "from dstack_vpn.core.x25519 import derive",
        "src/dstack_vpn/core/__init__.py": "",
        "src/dstack_vpn/core/x25519.py": "",
        "tests/unit/cli/test_cli.py": "",
        "tests/unit/core/test_x25519.py": "",
        "tests/unit/conftest.py": "import dstack_vpn.cli",
        "tests/integration/test_process.py": "run('python', '-m', 'dstack_vpn')",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


SMALL: Final = {
    "__main__": Cover("integration/test_process.py", "a process"),
    "cli.keys": Cover("unit/cli/test_cli.py", "by name", "tests.unit.conftest > cli"),
}


def test_a_project_with_all_its_tests_has_no_problem(small: Path) -> None:
    assert problems(Tree(small), SMALL, {}) == []


@pytest.mark.parametrize(
    ("covered", "others", "problem"),
    [
        ({"cli.keys": None}, {}, "cli.keys: has neither tests/unit/cli/test_keys.py nor"),
        ({"cli.gone": SMALL["__main__"]}, {}, "cli.gone: is in COVERED and does not exist"),
        ({"core.x25519": SMALL["__main__"]}, {}, "core.x25519: is in COVERED and has tests/unit/core/test_x"),
        ({"cli.keys": Cover("unit/test_gone.py", "x")}, {}, "cli.keys: tests/unit/test_gone.py does"),
        (
            {"cli.keys": Cover("unit/cli/test_cli.py", "x", "cli")},
            {},
            "cli.keys: tests.unit.cli.test_cli does not import dstack_vpn.cli",
        ),
        (
            {"cli.keys": Cover("unit/cli/test_cli.py", "x", "tests.unit.conftest > core.x25519")},
            {},
            "cli.keys: dstack_vpn.core.x25519 does not import dstack_vpn.cli.keys",
        ),
        ({}, {"test_gone.py": "x"}, "tests/unit/test_gone.py: is in OTHERS and does not exist"),
        ({}, {"core/test_x25519.py": "x"}, "tests/unit/core/test_x25519.py: is in OTHERS and mirrors a mod"),
    ],
)
def test_each_problem_is_found(
    small: Path, covered: Mapping[str, Cover | None], others: Mapping[str, str], problem: str
) -> None:
    lines = {module: cover for module, cover in {**SMALL, **covered}.items() if cover is not None}
    assert any(found.startswith(problem) for found in problems(Tree(small), lines, others))


def test_a_test_file_without_a_module_is_found(small: Path) -> None:
    (small / "tests" / "unit" / "core" / "test_review.py").touch()
    assert problems(Tree(small), SMALL, {}) == [
        "tests/unit/core/test_review.py: mirrors no module and is not in OTHERS"
    ]
    assert problems(Tree(small), SMALL, {"core/test_review.py": "several modules"}) == []
