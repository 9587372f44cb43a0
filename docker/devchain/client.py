"""The demo's client: fetches a page every so often, and says when that begins to fail or to work.

client.py URL [SECONDS]    fetch until stopped; every answer is a line of JSON on standard output
client.py --check URL      fetch once; the exit code is 0 where it worked
"""

import json
import sys
import time
import urllib.request

TIMEOUT = 1.0


def fetch(url: str) -> str | None:
    """Why it failed; None where it worked."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT) as reply:
            reply.read()
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


def main(url: str, interval: float) -> None:
    while True:
        began = time.time()
        problem = fetch(url)
        took = time.time() - began
        print(
            json.dumps({"at": began, "ok": problem is None, "ms": round(took * 1000, 1), "problem": problem}),
            flush=True,
        )
        time.sleep(max(0.0, interval - took))


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        sys.exit(0 if fetch(sys.argv[2]) is None else 1)
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
