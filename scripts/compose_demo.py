"""Revoke a node of the compose stack, register it again, and measure both (`make compose-demo`).

The client fetches a page over the VPN once a second, or as soon as its last request has timed out.
Its times are therefore exact to a second. The daemon's times come from its log.
"""

import os
import sys
import time
from datetime import datetime

from scripts.stack import OWNER, Stack, documents, running, wait_for


def requests(stack: Stack, since: float, *, ok: bool) -> float | None:
    """Return when the first request after ``since`` succeeded, or failed (Unix seconds)."""
    lines = documents(stack.container("client"))
    return next((line["at"] for line in lines if line["at"] > since and line["ok"] is ok), None)


def logged(stack: Stack, service: str, event: str, since: float) -> float | None:
    """Return when a node first logged an event after ``since`` (Unix seconds)."""
    for line in documents(stack.container(service)):
        at = datetime.fromisoformat(line["timestamp"]).timestamp()
        if line["event"] == event and at > since:
            return at
    return None


def say(text: str, seconds: float | None = None) -> None:
    """Print a line of the report."""
    print(f"    · {text:<62}" + ("" if seconds is None else f"{seconds:8.2f} s"), flush=True)


def change(stack: Stack, title: str, command: tuple[str, ...], event: str, *, ok: bool) -> None:
    """Change the registry; measure when node a and the client notice the change."""
    print(f"\n{title}\n    $ dstack-vpn {' '.join(command)}", flush=True)
    began = time.time()  # noqa: TID251 - compared with the containers' clocks, which are the host's
    print("      " + stack.node(*command).splitlines()[0])
    acted = wait_for("node a acts", lambda: logged(stack, "node-a", event, began))
    say(f"node a: {event}, from the command's start", acted - began)
    noticed = wait_for("the client notices it", lambda: requests(stack, acted - 1.0, ok=ok))
    outcome = "succeeded" if ok else "failed"
    say(f"from then to the client's first request that {outcome}", noticed - acted)


def story(stack: Stack) -> None:
    """Run all steps."""
    print("\n1  All services run\n" + stack.compose("ps", "--format", "table {{.Service}}\t{{.Status}}"))
    wait_for("the client reaches the server", lambda: requests(stack, 0.0, ok=True))
    say("the client behind node b reaches the server behind node a")
    change(stack, "2  Node b is revoked", ("node", "revoke", "b", "--yes"), "peer.removed", ok=False)
    key = stack.status("node-b")["stats"]["public_key"]
    register = ("node", "register", "b", "--to", OWNER, "--public-key", key)
    change(stack, "3  Node b is registered again", register, "peer.set", ok=True)
    print("\nAll steps passed.", flush=True)


def dashboard(stack: Stack) -> str:
    """Return the URL of node a's dashboard on this machine."""
    return f"http://{stack.compose('port', 'dashboard', '8080').strip()}/"


def main() -> int:
    """Run the demo; return the exit code."""
    stack = Stack("dstack-vpn")
    if "--keep" in sys.argv[1:]:
        stack.compose("up", "-d", "--build", "--wait")
        story(stack)
        print(f"The stack keeps running. The dashboard of node a: {dashboard(stack)}")
        print("docker compose ps, docker compose logs -f client, docker compose down -v")
        return 0
    with running(Stack(f"dvpn-demo-{os.getpid()}")) as own:
        story(own)
    return 0


if __name__ == "__main__":
    sys.exit(main())
