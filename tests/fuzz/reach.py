"""The coverage of a decoder by its inputs: `python -m tests.fuzz.reach NAME [RUNS]`.

It lists the lines that no input ran, in those functions of the project that an input entered. It
does not list functions that were never entered; the line with their call is listed instead.
"""

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.driver import run

import dstack_vpn

_ROOT = str(Path(dstack_vpn.__file__).parent)


def measure(name: str, runs: int, seed: int = 1) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Return, by file, the lines that ran, and all lines of the functions that were entered."""
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
    """Print the share of the lines that ran, and the missing lines."""
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
