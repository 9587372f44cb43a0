"""The prose check finds each pattern, and skips code."""

from pathlib import Path

import pytest
from scripts import prose

FOUND = {
    "headline": "Whether a peer is silent.",
    "told": "The log tells the reason.",
    "somebody": "A packet of somebody else.",
    "is none": "An answer that is none.",
    "where for if": "Raise an error where there is no key.",
    "courtroom": "An endpoint that lies.",
    "archaic": "Read it anew.",
}
CLEAN = "Return the peers that replied. The clock lags if the chain is ahead; there is no retry."


def names(passages: list[prose.Passage]) -> set[str]:
    return {hit.pattern for passage in passages for hit in prose.hits(passage)}


def tree(folder: Path, document: str, source: str) -> Path:
    """Return a repository with one document, one source, and the other files that are searched."""
    pages = ("docs/page.md", "README.md", "CHANGELOG.md", "SECURITY.md", "contracts/README.md")
    for name in (*pages, "src/module.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "docs" / "page.md").write_text(document)
    (folder / "src" / "module.py").write_text(source)
    return folder


def test_every_pattern_has_an_example() -> None:
    assert set(FOUND) == set(prose.PATTERNS)


@pytest.mark.parametrize(("pattern", "text"), FOUND.items(), ids=FOUND)
def test_a_pattern_is_found_in_a_document_a_docstring_and_a_comment(pattern: str, text: str) -> None:
    assert pattern in names(prose.document(text))
    assert pattern in names(list(prose.source(f'"""{text}"""\n')))
    assert pattern in names(list(prose.source(f"x = 1  # {text}\n")))


def test_clean_text_passes() -> None:
    assert names(prose.document(CLEAN)) == set()
    assert names(list(prose.source(f'"""{CLEAN}"""\nNAME = "nobody"  # {CLEAN}\n'))) == set()


def test_code_and_generated_text_are_skipped() -> None:
    generated = "<!-- Made by x -->\nnobody\n<!-- End of the table. -->\n"
    text = f"Run `nobody`, see [x](nobody.md).\n```sh\nnobody\n```\n{generated}"
    assert names(prose.document(text)) == set()


def test_a_phrase_is_found_across_lines_and_at_its_line() -> None:
    (passage,) = prose.source("# one\n# everything but\n# for this\n")
    assert [(hit.phrase, hit.line) for hit in prose.hits(passage)] == [("but for", 2)]


def test_a_documents_line_may_not_be_longer_than_100_columns_outside_of_tables() -> None:
    long = "x" * 101
    assert [hit.line for hit in prose.long_lines(f"short\n{long}\n| {long} |\n```\n{long}\n```\n")] == [2]


def test_one_hit_fails(tmp_path: Path) -> None:
    assert prose.main(tree(tmp_path, CLEAN, f'"""{CLEAN}"""\n')) == 0
    assert prose.main(tree(tmp_path, "Told by nobody.", "")) == 1
    assert prose.main(tree(tmp_path, "", '"""Nobody replied."""\n')) == 1
    assert prose.main(tree(tmp_path, "", 'raise ValueError("nobody replied")\n')) == 1
    assert prose.main(tree(tmp_path, "", 'NAME = "nobody"\n')) == 0


def test_every_hit_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prose.main(tree(tmp_path, "One.\nNobody.", ""))
    assert "docs/page.md:2: somebody: Nobody" in capsys.readouterr().out
