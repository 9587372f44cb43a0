"""`dstack-vpn` and ``python -m dstack_vpn``."""

import sys

from dstack_vpn.cli import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
