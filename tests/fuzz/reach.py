"""How much of a decoder its inputs reach: `python -m tests.fuzz.reach NAME [RUNS]`.

Of the project's functions that were entered, it lists the lines that no input has run. A function that was
never entered is not seen; where it should have been, the line that calls it is.
"""

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.driver import run

import dstack_vpn

_ROOT = str(Path(dstack_vpn.__file__).parent)


def measure(name: str, runs: int, seed: int = 1) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """The lines that were run, and all lines of the functions that were entered, by file."""
    ran: dict[str, set[int]] = {}
    entered: set[CodeType] = set()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            ran[frame.f_code.co_filename].add(frame.f_lineno)
        return local

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(_ROOT):
            return None
        entered.add(code)
        ran.setdefault(code.co_filename, set())
        return local

    sys.settrace(enter)
    try:
        run(name, runs, seed)
    finally:
        sys.settrace(None)
    lines: dict[str, set[int]] = {}
    for code in entered:
        found = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
        lines.setdefault(code.co_filename, set()).update(found)
    return ran, lines


def main() -> None:
    """Print the share, and what is missing."""
    name, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    ran, lines = measure(name, runs)
    total = sum(map(len, lines.values()))
    missing = {file: sorted(lines[file] - ran[file]) for file in sorted(lines)}
    reached = total - sum(map(len, missing.values()))
    sys.stdout.write(f"{name:14} {reached} of {total} lines, {100 * reached / max(total, 1):.1f} %\n")
    for file, numbers in missing.items():
        if numbers:
            sys.stdout.write(f"    {Path(file).relative_to(_ROOT)}: {', '.join(map(str, numbers))}\n")


if __name__ == "__main__":
    main()
