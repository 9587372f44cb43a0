"""The local profile: the result of `docker compose up` in a new checkout."""

import http.client
import json
import urllib.request
from contextlib import closing
from typing import Any

import pytest
from scripts.compose_demo import dashboard
from scripts.stack import ROOT, DockerError, Stack, docker, documents, health, inspect, wait_for, wait_healthy

NET_ADMIN = 1 << 12
ALLOWED = {"node-a": NET_ADMIN, "node-b": NET_ADMIN}
"""The capabilities by service. The others have none."""
SERVICES = (
    *("devchain", "net-a", "node-a", "web", "proxy-a", "proxy-b", "net-b", "node-b", "client"),
    *("inside-a", "dashboard"),
)


def capabilities(container: str) -> dict[str, int]:
    pid = inspect(container)["State"]["Pid"]
    status = docker("exec", container, "cat", "/proc/1/status")
    assert pid
    fields = (line.split() for line in status.splitlines())
    return {f[0].rstrip(":"): int(f[1], 16) for f in fields if f[0].startswith("Cap")}


def test_all_are_healthy(stack: Stack) -> None:
    found = {
        c["Service"]: c["Health"]
        for c in map(json.loads, stack.compose("ps", "--format", "json").splitlines())
    }
    assert found == dict.fromkeys(SERVICES, "healthy")


def test_the_client_reaches_the_server_through_both_proxies(stack: Stack) -> None:
    client = stack.container("client")
    wait_for("an answer", lambda: any(line["ok"] for line in documents(client)))
    for proxy in ("proxy-a", "proxy-b"):
        stats = stack.exec(
            proxy,
            "/usr/bin/python3",
            "-c",
            "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/stats').read().decode())",
        )
        assert json.loads(stats)["accepted"] >= 1


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_has_a_capability_too_many(stack: Stack, service: str) -> None:
    """Includes the bounding set, because no program can get capabilities outside of it."""
    found = capabilities(stack.container(service))
    assert found["CapBnd"] == ALLOWED.get(service, 0)
    assert found["CapEff"] == found["CapPrm"] == ALLOWED.get(service, 0)
    assert found["CapAmb"] == 0


@pytest.mark.parametrize("service", SERVICES)
def test_containers_are_shut_in(stack: Stack, service: str) -> None:
    found = inspect(stack.container(service))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] and not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"], "the default seccomp profile, too"
    assert host["PidMode"] == "" and host["IpcMode"] == "private"
    published = [place["HostIp"] for places in (host["PortBindings"] or {}).values() for place in places]
    assert published == (["127.0.0.1"] if service == "dashboard" else []), "on the host's loopback alone"
    is_node = service in ALLOWED
    assert [device["PathOnHost"] for device in host["Devices"] or ()] == (["/dev/net/tun"] if is_node else [])
    assert (found["Config"]["User"] == "") == is_node, "only nodes run as root"
    for name in ("NoNewPrivs", "Seccomp"):
        value = docker("exec", stack.container(service), "grep", f"^{name}:", "/proc/1/status").split()[1]
        assert value == {"NoNewPrivs": "1", "Seccomp": "2"}[name]


def test_nothing_secret_is_logged_or_in_the_environment(stack: Stack) -> None:
    for service in ("node-a", "node-b"):
        container = stack.container(service)
        key = docker("exec", container, "cat", "/var/lib/dstack-vpn/wireguard.key").strip()
        assert len(key) == 44
        assert key not in docker("logs", container, check=False)
        assert key not in json.dumps(inspect(container))
        mode = docker("exec", container, "stat", "-c", "%a %u", "/var/lib/dstack-vpn/wireguard.key").strip()
        assert mode == "600 0"
        assert stack.status(service)["stats"]["public_key"] in docker("logs", container, check=False)


def test_pid_1_is_an_init_that_starts_the_daemon(stack: Stack) -> None:
    command = stack.exec("node-a", "cat", "/proc/1/cmdline").split("\0")
    assert command[:3] == ["/usr/bin/tini", "--", "dstack-vpn"]


def test_ipv6_works_in_the_tunnel_without_ipv6_outside(stack: Stack) -> None:
    outside = stack.exec("node-a", "cat", "/proc/net/if_inet6")
    assert not [line for line in outside.splitlines() if line.split()[3] == "00" and "wg0" not in line]
    addresses = stack.status("node-a")["stats"]["addresses"]
    (address,) = (a.partition("/")[0] for a in addresses if ":" in a)
    program = (
        "import socket,sys; s=socket.socket(socket.AF_INET6,socket.SOCK_STREAM); s.settimeout(5);"
        f"sys.exit(s.connect_ex(('{address}', 80)) != 111)"
    )
    stack.exec("client", "/usr/bin/python3", "-c", program)  # refused by node a, so the packet arrived


def test_who_joined_a_nodes_network_keeps_it_when_the_node_is_killed(stack: Stack) -> None:
    node, web = stack.container("node-a"), stack.container("web")
    started = inspect(web)["State"]["StartedAt"]
    docker("kill", "-s", "KILL", node)
    docker("start", node)
    wait_healthy(node)
    count = sum(line["ok"] for line in documents(stack.container("client")))
    wait_for(
        "the client fetches again",
        lambda: sum(line["ok"] for line in documents(stack.container("client"))) > count + 1,
    )
    assert inspect(web)["State"]["StartedAt"] == started
    assert health(web) == "healthy"


def test_stopping_a_node_takes_the_interface_away(stack: Stack) -> None:
    node = stack.container("node-b")
    try:
        docker("stop", "-t", "3", node)
        assert inspect(node)["State"]["ExitCode"] == 0, "not killed"
        links = stack.exec("net-b", "ls", "/sys/class/net")
        assert "wg0" not in links.split()
    finally:
        docker("start", node)
        wait_healthy(node)


CONNECT = (
    "import socket, sys; s = socket.socket(); s.settimeout(3);"
    "sys.exit(0 if s.connect_ex((sys.argv[1], int(sys.argv[2]))) == 0 else 1)"
)


def test_the_chain_is_on_the_control_network_alone(stack: Stack) -> None:
    networks = inspect(stack.container("devchain"))["NetworkSettings"]["Networks"]
    (address,) = (network["IPAddress"] for network in networks.values())
    stack.exec("node-a", "/usr/bin/python3", "-c", CONNECT, address, "8545")
    for service in ("proxy-a", "proxy-b"):
        with pytest.raises(DockerError):
            stack.exec(service, "/usr/bin/python3", "-c", CONNECT, address, "8545")


def test_a_nodes_http_is_on_no_network(stack: Stack) -> None:
    networks = inspect(stack.container("net-a"))["NetworkSettings"]["Networks"]
    for network in networks.values():
        with pytest.raises(DockerError):
            stack.exec("node-b", "/usr/bin/python3", "-c", CONNECT, network["IPAddress"], "8080")
    with pytest.raises(DockerError):
        stack.exec("client", "/usr/bin/python3", "-c", CONNECT, "10.77.0.2", "8080")
    stack.exec("client", "/usr/bin/python3", "-c", CONNECT, "10.77.0.2", "80")


def test_the_policy_permits_the_page_and_nothing_else(stack: Stack) -> None:
    assert stack.node("policy", "show") == (ROOT / "docker" / "devchain" / "policy.json").read_text()
    assert "grant 1" in stack.node("policy", "explain", "b", "a", "tcp:80")
    with pytest.raises(DockerError):
        stack.node("policy", "explain", "b", "a", "tcp:81")
    denied = get(stack, "/policy")["denied"]["packets"]
    with pytest.raises(DockerError):
        stack.exec("client", "/usr/bin/python3", "-c", CONNECT, "10.77.0.2", "81")
    stack.exec("client", "/usr/bin/python3", "-c", CONNECT, "10.77.0.2", "80")
    policy = wait_for("the packets are counted", lambda: counted(stack, denied), 10)
    assert policy["enforced"] is True
    assert [(each["node"], each["protocol"]) for each in policy["recent"] if each["port"] == 81] == [
        ("b", "tcp")
    ]
    with pytest.raises(DockerError):  # the other direction: no grant
        stack.exec("web", "/usr/bin/python3", "-c", CONNECT, "10.77.0.3", "80")


def counted(stack: Stack, before: int) -> dict[str, Any] | None:
    """Return node a's policies as soon as it has counted more denied packets."""
    policy = get(stack, "/policy")
    return policy if policy["denied"]["packets"] > before else None


def get(stack: Stack, path: str) -> dict[str, Any]:
    """Return a document of node a's API, by the dashboard's port."""
    with urllib.request.urlopen(f"{dashboard(stack)}{path[1:]}", timeout=5) as reply:
        return dict(json.load(reply))


def test_the_web_server_is_reached_over_the_vpn_alone(stack: Stack) -> None:
    networks = inspect(stack.container("net-a"))["NetworkSettings"]["Networks"]
    for network in networks.values():
        with pytest.raises(DockerError):
            stack.exec("node-b", "/usr/bin/python3", "-c", CONNECT, network["IPAddress"], "80")


def test_every_network_is_internal_but_the_dashboards(stack: Stack) -> None:
    names = docker(
        "network", "ls", "-q", "--filter", f"label=com.docker.compose.project={stack.project}"
    ).split()
    assert len(names) == 5
    (other,) = (found for name in names if not (found := inspect(name))["Internal"])
    assert list(other["Containers"]) == [stack.container("dashboard")]
    assert other["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_the_dashboard_is_on_the_hosts_loopback(stack: Stack) -> None:
    """No token is needed: by API_OPEN_TO=users, the forwarder is a process of node a's machine."""
    host, port = stack.compose("port", "dashboard", "8080").strip().split(":")
    assert host == "127.0.0.1"

    def get(path: str, **headers: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection(host, int(port), timeout=5)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    assert "<title>" in get("/")[1]
    status, peers = get("/peers")
    assert status == 200
    assert "b" in [peer["node_id"] for peer in json.loads(peers)["peers"]]
    assert get("/peers", Host="evil.example")[0] == 421, "a web page can't ask by a name of its own"
