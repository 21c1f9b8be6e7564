"""YAML 1.2: what plain words mean, merge keys, and what is refused though it is YAML."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.spec.yaml_files import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0o10", 8), ("0x10", 16), ("+3", 3), ("-0", 0), ("18446744073709551615", 2**64 - 1),
        ("1e3", 1000.0), ("1E-3", 0.001), (".5", 0.5), ("5.", 5.0), ("+.5e1", 5.0), ("-.Inf", -math.inf), ("1.5", 1.5),
        ("true", True), ("TRUE", True), ("False", False), ("~", None), ("null", None), ("Null", None), ("", None),
        ("!!int 7", 7), ("!!float 7", 7.0), ("!!str 7", "7"), ("'7'", "7"), ("!!null ~", None), ("!!bool true", True),
    ],
)  # fmt: skip
def test_what_is_a_number_a_boolean_or_null(text: str, value: Any) -> None:
    found = parse_yaml(text, "x")
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    ["1:30", "1:30:00", "1_000", "1_0.5", "0b1", "0o8", "-0x10", "1e", "e1", "on", "off", "Yes", "NO", "y", "n", "tRUE",
     "nULL", "=", "2024-01-31", "2024-13-45", "2024-01-31T12:00:00Z", "inf", "nan", ".", "+", "1.2.3", "٣"],
)  # fmt: skip
def test_all_else_is_text(text: str) -> None:
    assert parse_yaml(text, "x") == text


def test_not_a_number_is_one() -> None:
    assert math.isnan(parse_yaml(".nan", "x"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("a: &a {x: 1}\nb: {y: 3, <<: *a, x: 2}", {"a": {"x": 1}, "b": {"x": 2, "y": 3}}),
        ("b: {<<: [{x: 1}, {x: 2, y: 2}]}", {"b": {"x": 1, "y": 2}}),
        # Merged into another before it is made itself: that it merges something is no repeated key.
        ("c: {q: {r: &b {<<: {x: 1}, x: 2}}}\nd: {<<: *b}", {"c": {"q": {"r": {"x": 2}}}, "d": {"x": 2}}),
        ("a: &a [1, 2]\nb: *a", {"a": [1, 2], "b": [1, 2]}),
    ],
)
def test_merge_keys_and_aliases_work(text: str, value: Any) -> None:
    assert parse_yaml(text, "x") == value


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}", ["line 3, column 3", "'c' appears twice", "first in line 2"]),
        ("a: 1\n'a': 2", ["line 2", "'a' appears twice"]),
        ("a: {<<: {x: 1}, <<: {y: 1}}", ["'<<' appears twice"]),
        ("? |\n  a\n  b\n: 1\n? |\n  a\n  b\n: 2", ["line 5", "appears twice, first in line 1"]),
        ("a: {<<: 5}", ["merging"]),
        ("a: {{ x }}", ["line 1, column 5", "keys are text", "template"]),
        ("? [a]\n: 1", ["keys are text"]),
        ("1: a", ["'1' is a key, but keys are text"]),
        ("true: a", ["'true' is a key"]),
        ("~: a", ["'~' is a key"]),
        ("a: &a {x: *a}", ["*a is inside the value that it refers to"]),
        ("&a [*a]", ["*a is inside the value that it refers to"]),
        ("a: *b", ["undefined alias", "b"]),
        (BOMB, ["line 6", "more than 1,000,000 values"]),
        (CHAIN, ["line 100", "deeper than 100"]),
        ("[" * 3000, ["deeper than 100"]),
        ("{a: " * 3000, ["deeper than 100"]),
        ("- " * 3000, ["deeper than 100"]),
        ("a: " + "9" * 5000, ["5000 digits", "2^64"]),
        ("a: 0x" + "f" * 5000, ["2^64"]),
        ("a: -9223372036854775809", ["-2^63"]),
        ("a: !!int one", ["'one' is tagged int"]),
        ("a: !!bool on", ["'on' is tagged bool"]),
        ("a: !!int [1]", ["scalar"]),
        ("a: !!python/object/apply:os.system [ls]", ["'!!python/object/apply:os.system' is not supported"]),
        ("a: !mine x", ["'!mine' is not supported"]),
        ("a: !!binary aGk=", ["'!!binary' is not supported"]),
        ("a: 1\n---\nb: 2", ["line 2", "single document", "another document"]),
        ("a:\n\tb: 1", ["line 2", "'\\t'"]),
        ("a: \x00", ["#x0000"]),
        ("a: \udcff", ["not allowed"]),
    ],
)
def test_what_no_spec_can_be_is_refused_in_words(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "spec.yaml")
    message = str(caught.value)
    assert message.startswith("spec.yaml")
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message


def test_a_list_may_be_long_and_nested() -> None:
    assert parse_yaml("[" * 100 + "]" * 100, "x")
    assert len(parse_yaml("[" + "1, " * 500 + "]", "x")) == 500
