"""JSON with comments and trailing commas: values, and the positions of problems."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.core.policy.hujson import Ambiguous, HujsonText, Number, Path, TextError

leaves = st.none() | st.booleans() | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@settings(max_examples=200, deadline=None)
@given(values, st.sampled_from([None, 2]))
def test_plain_json_has_the_value_of_the_json_module(value: Any, indent: int | None) -> None:
    assert HujsonText(json.dumps(value, indent=indent)).value == value
    assert HujsonText(json.dumps(value, ensure_ascii=False)).value == value


def decorated(value: Any, draw: Any) -> str:
    """Return a value as text, with comments and trailing commas anywhere."""
    blank = draw(st.sampled_from(["", " ", "\n", '// , ] } " x\n', '/* ] , " */', "/**/"]))
    if isinstance(value, dict):
        inside = ",".join(json.dumps(key) + ":" + decorated(each, draw) for key, each in value.items())
        text = "{" + inside + "," * (bool(value) and draw(st.booleans())) + blank + "}"
    elif isinstance(value, list):
        inside = ",".join(decorated(each, draw) for each in value)
        text = "[" + inside + "," * (bool(value) and draw(st.booleans())) + blank + "]"
    else:
        text = json.dumps(value)
    whole: str = blank + text + blank
    return whole


@settings(max_examples=200, deadline=None)
@given(values, st.data())
def test_comments_and_trailing_commas_change_nothing(value: Any, data: st.DataObject) -> None:
    assert HujsonText(decorated(value, data.draw)).value == value


def paths(value: Any, path: Path = ()) -> list[Path]:
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += paths(each, (*path, key))
    return found


@settings(max_examples=200, deadline=None)
@given(values, st.data())
def test_a_position_is_where_the_value_begins(value: Any, data: st.DataObject) -> None:
    text = decorated(value, data.draw)
    path = data.draw(st.sampled_from(paths(value)))
    with pytest.raises(TextError) as caught:
        HujsonText(text).refuse(path, "no")
    rest = text.split("\n")[caught.value.line - 1][caught.value.column - 1 :]
    expected = value
    for key in path:
        expected = expected[key]
    start: str = (
        "{" if isinstance(expected, dict) else "[" if isinstance(expected, list) else json.dumps(expected)
    )
    assert rest.startswith(start)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: not JSON: Expecting value"),
        ('{\n  "a": x}', "line 2, column 8: not JSON"),
        ('["a\nb"]', "line 1, column 4: not JSON"),
        ("[1 /* never", "not JSON"),
        ("[,]", "line 1, column 2: not JSON"),
        ('{"a": 1,, }', "line 1, column 9: not JSON"),
        ("[" * 24_000, "nested too deeply"),
        ("[] []", "not JSON: Extra data"),
        ("'a'", "not JSON"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(TextError, match=r"line [0-9]+, column [0-9]+: ") as caught:
        HujsonText(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["1", "1e999", "NaN", "-Infinity", "9" * 20_000])
def test_a_number_is_not_converted(text: str) -> None:
    assert isinstance(HujsonText(text).value, Number)


def test_an_object_with_a_key_twice_is_ambiguous() -> None:
    found = HujsonText('{"a": true, "b": 1, "a": false}').value
    assert isinstance(found, Ambiguous)
    assert found.key == "a"


def test_the_lines_of_a_lists_values() -> None:
    text = '{ // a\n "other": [[1],\n 2], "found": [ /* b\n */ 1,\r\n\n [2,\n 3], {\n}\n,\n], "last": []}'
    assert HujsonText(text).lines("found") == (4, 6, 7)
    assert HujsonText(text).lines("other") == (2, 3)
    assert HujsonText(text).lines("last") == ()


def test_a_value_that_is_nested_to_the_limit_is_refused_with_a_text_error() -> None:
    """The position of a value is found a few calls deeper than the text was parsed."""
    refused = set()
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        text = '{"deep": ' + "[" * depth + "]" * depth + ', "found": [1]}'
        try:
            found = HujsonText(text)
        except TextError as error:
            refused.add(str(error))
            continue
        with pytest.raises(TextError) as caught:
            deeper(8, partial(found.refuse, ("found", 0), "a problem"))
        refused.add(str(caught.value))
        with suppress(TextError):
            assert deeper(8, partial(found.lines, "found")) == (1,)
    assert any(problem.endswith("a problem") for problem in refused)
    assert "line 1, column 1: the values are nested too deeply" in refused


def deeper(levels: int, call: Callable[[], Any]) -> Any:
    return call() if not levels else deeper(levels - 1, call)
