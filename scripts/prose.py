"""Find the phrases that plain technical English avoids.

The documents are searched for `PATTERNS`, and so are the docstrings, comments and messages of the
sources. Code, link targets and generated text are skipped. A single hit fails.

Run it as a module: ``python -m scripts.prose``.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
FLAGS: Final = re.IGNORECASE | re.MULTILINE
PATTERNS: Final = {
    "headline": re.compile(r"(?:\A|^#+[ ]|^\|[ ])(?:What|Whether|Where)\b(?!\?)", re.MULTILINE),
    "told": re.compile(r"\b(?:told|tells?|says?\s+so|speaks?\s+of)\b", FLAGS),
    "somebody": re.compile(r"\b(?:some|no|every|any)body\b|\bwhoever\b", FLAGS),
    "is none": re.compile(
        r"(?<!there\s)\b(?:is|are|was|were)\s+(?:(?-i:none)\b(?!\s+of)|no\s+(?!longer\b|more\b)\w+)", FLAGS
    ),
    "where for if": re.compile(
        r"\bwhere\s+(?:there|it|that|they|no|none|neither|nothing|one|permitted|possible|needed)\b"
        r"|(?<=[.:;]\s)Where\b",
        FLAGS,
    ),
    "courtroom": re.compile(r"\b(?:lies?|liars?|lying|vouch\w*|witness(?:es)?|sentence[sd])\b", FLAGS),
    "archaic": re.compile(r"\b(?:but\s+for|in\s+vain|for\s+ever|to\s+be\s+had|anew)\b", FLAGS),
}
"""The patterns by name. Write instead, in this order: a noun phrase or an imperative; report, log,
state; the member, a client; "is missing", "is not an X"; if, when; contradicts, confirms, replies;
except, permanently, available, again."""
SOURCES: Final = ("src", "demo", "benchmarks", "scripts")
"""The directories whose sources are searched."""
TESTS: Final = "tests"
"""The directory of the tests. Their strings are data, and are not searched."""
WORDS: Final = 2
"""A string of fewer words is a name, not a message."""
LONGEST: Final = 100
"""The maximum number of columns of a document's line, outside of tables and code blocks."""
GENERATED: Final = frozenset({"configuration.md", "logs.md"})
"""The documents that are generated from the sources."""
MADE: Final = re.compile(r"<!-- Made by .*?<!-- End of the table. -->", re.DOTALL)
FENCED: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"^```.*?^```|``?[^`\n]+``?|(?<=\])\([^)\s]+\)", re.MULTILINE | re.DOTALL)


class Passage(NamedTuple):
    """A piece of prose and the line on which it begins."""

    line: int
    text: str


class Hit(NamedTuple):
    """A forbidden phrase and its line."""

    pattern: str
    line: int
    phrase: str


def blank(match: re.Match[str]) -> str:
    """Return the newlines of a match, so that line numbers stay correct."""
    return "\n" * match[0].count("\n") or "`"


def document(text: str) -> list[Passage]:
    """Return the prose of a Markdown document."""
    return [Passage(1, CODE.sub(blank, MADE.sub(blank, text)))]


def source(text: str, *, messages: bool = True) -> Iterator[Passage]:
    """Yield the docstrings (also of attributes), comments and messages of a Python source."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield Passage(node.lineno, CODE.sub(blank, docstring))
            case ast.Constant(value=str(value)) if messages and value.count(" ") >= WORDS - 1:
                yield Passage(node.lineno, CODE.sub(blank, value))
    runs: list[list[tokenize.TokenInfo]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not runs or token.start[0] != runs[-1][-1].start[0] + 1:
                runs.append([])
            runs[-1].append(token)
    for run in runs:
        lines = "\n".join(token.string.lstrip("#: ") for token in run)
        yield Passage(run[0].start[0], CODE.sub(blank, lines))


def hits(passage: Passage) -> Iterator[Hit]:
    """Yield each forbidden phrase of a passage."""
    for name, pattern in PATTERNS.items():
        for match in pattern.finditer(passage.text):
            line = passage.line + passage.text.count("\n", 0, match.start())
            yield Hit(name, line, " ".join(match[0].split()))


def long_lines(text: str) -> Iterator[Hit]:
    """Yield each overlong line of a document outside of tables, code and generated text."""
    for number, line in enumerate(FENCED.sub(blank, MADE.sub(blank, text)).split("\n"), 1):
        if len(line) > LONGEST and not line.lstrip().startswith("|"):
            yield Hit("long line", number, f"{len(line)} columns")


def documents(root: Path) -> list[Path]:
    """Return the documents that are not generated."""
    pages = [path for path in (root / "docs").rglob("*.md") if path.name not in GENERATED]
    return sorted(
        [
            *pages,
            *(root / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "contracts/README.md")),
        ]
    )


def main(root: Path = ROOT) -> int:
    """Print each hit; return the exit code."""
    found: dict[Path, list[Hit]] = {}
    for path in documents(root):
        text = path.read_text()
        found[path] = [*(hit for part in document(text) for hit in hits(part)), *long_lines(text)]
    for folder in (*SOURCES, TESTS):
        for path in sorted((root / folder).rglob("*.py")):
            parts = source(path.read_text(), messages=folder != TESTS)
            found[path] = list(dict.fromkeys(hit for part in parts for hit in hits(part)))
    found.pop(root / "scripts" / "prose.py", None)  # it names the phrases
    for path, each in found.items():
        for hit in each:
            print(f"{path.relative_to(root)}:{hit.line}: {hit.pattern}: {hit.phrase}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
