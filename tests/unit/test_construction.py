"""Objects get all that they need at construction; no attribute is set on them afterwards."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "dstack_vpn"
ROOMS = ("daemon", "wiring")
FILES = sorted(path for room in ROOMS for path in (SOURCES / room).rglob("*.py"))
ALL_FILES = sorted(SOURCES.rglob("*.py"))


def own_attributes(tree: ast.Module) -> set[str]:
    """Return the attributes that the module's classes declare; the module may set these."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {
                each.target.id
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
    return found


def assigned(tree: ast.Module) -> Iterator[ast.Attribute]:
    """Yield every attribute that is assigned to, except those of ``self``."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor):
            targets = [node.target]
        for target in targets:
            for each in ast.walk(target):
                match each:
                    case ast.Attribute(value=ast.Name(id="self")):
                        pass
                    case ast.Attribute(ctx=ast.Store()):
                        yield each


def wrong_assignments(source: str) -> list[str]:
    tree = ast.parse(source)
    own = own_attributes(tree)
    return [f"{each.lineno}: {ast.unparse(each)}" for each in assigned(tree) if each.attr not in own]


def idle_callbacks(source: str) -> list[str]:
    """Return the attributes whose default is a function that does nothing."""
    return [
        f"{node.lineno}: {ast.unparse(node.target)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign) and node.value is not None
        for each in ast.walk(node.value)
        if isinstance(each, ast.Lambda) and isinstance(each.body, ast.Constant)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_nothing_is_attached_after_construction(path: Path) -> None:
    assert wrong_assignments(path.read_text()) == []


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_no_callback_has_a_default_that_does_nothing(path: Path) -> None:
    assert idle_callbacks(path.read_text()) == []


def test_every_room_has_files() -> None:
    assert {path.relative_to(SOURCES).parts[0] for path in FILES} == set(ROOMS)


def test_the_checks_find_what_they_look_for() -> None:
    assert wrong_assignments("members.submit = reconciler.submit") == ["1: members.submit"]
    assert wrong_assignments("self.state.count += 1") == ["1: self.state.count"]
    assert wrong_assignments("a, tunnel.renew = 1, 2") == ["1: tunnel.renew"]
    assert wrong_assignments("self.count = 1") == []
    assert wrong_assignments("class Peer:\n    relay: int\n\npeer.relay = 1") == []
    assert idle_callbacks("class A:\n    told: object = field(default=lambda x: None)") == ["2: told"]
