"""A container's log and its health check report faults of its options and its environment."""

import base64
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from demo.node import new_key
from scripts.stack import IMAGE, Stack, docker, inspect, wait_for

LEAST = (
    "--cap-drop",
    "ALL",
    "--read-only",
    "--security-opt",
    "no-new-privileges:true",
    "--tmpfs",
    "/run/wireguard",
)
ADMIN = ("--cap-add", "NET_ADMIN")
TUN = ("--device", "/dev/net/tun:/dev/net/tun:rw")
KEY = ("-e", "WIREGUARD_PRIVATE_KEY=generate")
NOWHERE = ("--network", "none", "-e", "NETWORK=local", "-e", "RPC_URL=ws://127.0.0.1:9")
_numbers = itertools.count(1)


@contextmanager
def container(*options: str, command: tuple[str, ...] = ()) -> Iterator[str]:
    """Start a node with these options; remove it at the end."""
    name = f"dvpn-fault-{os.getpid()}-{next(_numbers)}"
    try:
        docker("run", "-d", "--name", name, *LEAST, *options, IMAGE, *command)
        yield name
    finally:
        docker("rm", "-f", "-v", name, check=False)


def logged(name: str) -> str:
    return docker("logs", name, check=False)


def checked(name: str) -> str:
    """Return the output of the last health check."""
    log = inspect(name)["State"]["Health"]["Log"] or ()
    return str(log[-1]["Output"]) if log else ""


def tells(name: str, *texts: str) -> None:
    """Wait until the log and the health check have these texts."""
    for text in texts:
        wait_for(f"the log says {text!r}: {logged(name)}", lambda t=text: t in logged(name), 30)  # type: ignore[misc]  # bound now
        wait_for(f"the check says {text!r}: {checked(name)}", lambda t=text: t in checked(name), 30)  # type: ignore[misc]  # bound now


BAD = ("-e", "LISTEN_PORT=x", "-e", "MTU=1", "-e", "VPN_CIDR=8.8.8.0/24", "-e", "BACKEND=both")
PROBLEMS = ("LISTEN_PORT: expected", "MTU: expected", "VPN_CIDR: expected", "BACKEND: expected one of")


@pytest.mark.parametrize("command", [(), ("healthcheck",)])
def test_every_bad_variable_is_told_at_once(command: tuple[str, ...]) -> None:
    with container(*BAD, *NOWHERE, command=command) as name:
        assert docker("wait", name).strip() == "78"
        said = logged(name)
        for problem in PROBLEMS:
            assert problem in said
        assert "Traceback" not in said
        if not command:
            assert "WIREGUARD_PRIVATE_KEY (or WIREGUARD_PRIVATE_KEY_FILE): is not set. Example:" in said


def test_a_secret_in_the_environment_works_and_warns() -> None:
    key = base64.b64encode(new_key().reveal()).decode()
    with container(*ADMIN, *TUN, *NOWHERE, "-e", f"WIREGUARD_PRIVATE_KEY={key}") as name:
        wait_for("the warning", lambda: "config.secret_in_environment" in logged(name), 30)
        assert "pass its file as NAME_FILE" in logged(name)
        assert key not in logged(name)


def test_an_endpoint_that_can_not_be_reached_at_the_start() -> None:
    with container(*ADMIN, *TUN, *NOWHERE, *KEY) as name:
        tells(name, "the endpoint can't be reached: Connect call failed", "check RPC_URL")
        assert checked(name).startswith("not ready\n")
        assert "is not registered" not in logged(name), "who has not read the registry can't know"
        assert "registry: not read from the chain yet" in checked(name)
        assert inspect(name)["State"]["Running"], "it goes on trying"


def test_a_missing_tun_device() -> None:
    with container(*ADMIN, *NOWHERE, *KEY, "-e", "BACKEND=userspace") as name:
        tells(name, "/dev/net/tun is missing: modprobe tun, or pass the device to the container")


def test_no_net_admin() -> None:
    with container(*TUN, *NOWHERE, *KEY) as name:
        tells(name, "grant CAP_NET_ADMIN")


def test_not_even_root_can_do_without_it_and_no_other_user_gets_it() -> None:
    """The node runs as root, because the engine gives capabilities only to root."""
    show = ("--entrypoint", "grep", IMAGE, "CapEff", "/proc/self/status")
    capabilities = docker("run", "--rm", "--cap-drop", "ALL", *ADMIN, "--user", "65532", *show).split()[1]
    assert int(capabilities, 16) == 0
    capabilities = docker("run", "--rm", "--cap-drop", "ALL", *ADMIN, *show).split()[1]
    assert int(capabilities, 16) == 1 << 12


def test_a_full_disk_for_the_key() -> None:
    full = ("--tmpfs", "/var/lib/dstack-vpn:size=4k,nr_inodes=1,mode=0700")
    with container(*ADMIN, *TUN, *NOWHERE, *KEY, *full) as name:
        assert docker("wait", name).strip() == "1"
        assert "STATE_DIR: can't write a key to /var/lib/dstack-vpn" in logged(name)
        assert "No space left on device" in logged(name)


@pytest.fixture
def key_file(tmp_path: Path) -> tuple[str, ...]:
    """Options that give a node its key by a file."""
    path = tmp_path / "wireguard.key"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, base64.b64encode(new_key().reveal()))
    os.close(descriptor)
    target = "/run/secrets/wireguard_private_key"
    return ("-v", f"{path}:{target}:ro", "-e", f"WIREGUARD_PRIVATE_KEY_FILE={target}")


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("size=4k,nr_inodes=1,mode=0700", "free some space in STATE_DIR"),
        ("ro,mode=0700", "STATE_DIR"),
    ],
)
def test_a_disk_that_takes_nothing(key_file: tuple[str, ...], state: str, advice: str) -> None:
    options = ("--tmpfs", f"/var/lib/dstack-vpn:{state}")
    with container(*ADMIN, *TUN, *NOWHERE, *key_file, *options) as name:
        tells(name, advice)
        assert "the tunnel works without it" in checked(name)
        assert inspect(name)["State"]["Running"]


def test_a_secret_that_others_can_read(key_file: tuple[str, ...]) -> None:
    Path(key_file[1].partition(":")[0]).chmod(0o644)
    with container(*ADMIN, *TUN, *NOWHERE, *key_file) as name:
        assert docker("wait", name).strip() == "78"
        assert "can be read by others (mode 0644): chmod 0600" in logged(name)


def test_a_second_container_with_the_same_state(stack: Stack) -> None:
    volume = f"{stack.project}_state-a:/var/lib/dstack-vpn"
    with container(*ADMIN, *TUN, *NOWHERE, *KEY, "-v", volume) as name:
        assert docker("wait", name).strip() == "1"
        assert "another dstack-vpn runs with STATE_DIR=/var/lib/dstack-vpn" in logged(name)


def test_a_second_container_with_the_same_node_id(stack: Stack) -> None:
    """The second container generates a key that is not the node's key in the registry."""
    network = (
        "--network",
        f"{stack.project}_control",
        "-e",
        "NETWORK=local",
        "-e",
        "RPC_URL=ws://devchain:8545",
    )
    with container(*ADMIN, *TUN, *KEY, *network, "-e", "NODE_ID=a") as name:
        tells(name, "node a is registered with another public key than ours")
        assert "update it with 'dstack-vpn node update-key'" in checked(name)


def test_a_clock_that_is_off(stack: Stack) -> None:
    """Move the chain's time ahead; to a node, its own clock then seems to be behind."""
    rpc = (
        "import json, sys, urllib.request as u; [u.urlopen(u.Request('http://127.0.0.1:8545', json.dumps("
        "{'jsonrpc': '2.0', 'id': 1, 'method': m, 'params': p}).encode(), "
        "{'Content-Type': 'application/json'})).read() for m, p in json.loads(sys.argv[1])]"
    )
    later = '[["evm_increaseTime", [7200]], ["evm_mine", []]]'
    node = stack.container("node-a")
    stack.exec("devchain", "/usr/bin/python3", "-c", rpc, later)
    tells(node, "s behind the newest block; correct the time (NTP)")
    assert checked(node).startswith("ready\n")
