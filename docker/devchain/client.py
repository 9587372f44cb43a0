"""The demo's client: fetch a page at an interval, and report each result.

client.py URL [SECONDS]    fetch until stopped; print each result as a line of JSON
client.py --check URL      fetch once; the exit code is 0 on success
"""

import json
import sys
import time
import urllib.request

TIMEOUT = 1.0


def fetch(url: str) -> str | None:
    """Fetch the page; return the error, or None on success."""
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
