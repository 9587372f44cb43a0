"""``python -m demo``."""

import sys

from demo import demo
from dstack_vpn.cli import run

sys.exit(run(sys.argv[1:], demo, "python -m demo"))
