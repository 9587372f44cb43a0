"""`node rotate-key` in the node's image, as the daemon calls it by KEY_MAX_AGE."""

import json
from pathlib import Path

import pytest
from scripts.stack import ROOT, DockerError, Stack, docker, inspect, wait_for
from tests.compose.test_production import production

SECRET = "5f" * 32
SIGN = "node", "rotate-key", "--config", "/dev/stdin", "--json"


def settings(account: str) -> str:
    """Return the configuration for the daemon's process, on its standard input."""
    return f"""
network = "local"
rpc_url = "http://devchain:8545"
state_dir = "/var/lib/dstack-vpn"
wireguard_private_key = "generate"
contract_private_key = "{account}"
"""


def answered(stack: Stack) -> bool:
    """Return whether the client in b's network can fetch the page of the server in a's."""
    program = "/usr/local/lib/dstack-vpn-demo/client.py"
    try:
        stack.exec("client", "/usr/bin/python3", program, "--check", "http://10.77.0.2/")
    except DockerError:
        return False
    return True


def test_a_key_is_changed_in_the_nodes_own_container(stack: Stack) -> None:
    before = stack.status("node-b")["stats"]
    account = (ROOT / "docker" / "devchain" / "account0.key").read_text().strip()
    command = ("exec", "-i", stack.container("node-b"), "dstack-vpn", *SIGN, f"token:{before['token']}")
    with pytest.raises(DockerError, match="The old key stays in use"):
        docker(*command, stdin=settings(SECRET))
    told = json.loads(docker(*command, stdin=settings(account)))
    wait_for(
        "the daemon has it",
        lambda: stack.status("node-b")["stats"]["public_key"] == told["public_key"] != before["public_key"],
    )
    wait_for("an answer by the tunnel", lambda: answered(stack))


def test_an_account_comes_as_a_docker_secret(tmp_path: Path) -> None:
    path = tmp_path / "holder.key"
    path.touch(0o600)
    path.write_text(SECRET)
    stack = production(tmp_path, "deploy/compose.key-age.yml", HOLDER_KEY=str(path), LISTEN_PORT="51879")
    stack.project += "-key-age"
    try:
        stack.compose("up", "-d", "--no-build")
        container = stack.container("node")
        wait_for("its API is there", lambda: "web.listening" in docker("logs", container, check=False), 60)
        facts = stack.status("node")["stats"]["reports"]["key"]
        assert (facts["longest"], facts["hindrance"]) == (7_776_000, None)
        assert SECRET not in str(inspect(container)) + docker("logs", container, check=False)
    finally:
        stack.down()
