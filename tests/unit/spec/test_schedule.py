"""The grammar of schedules and their values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rt_scale.spec.schedule import Scheduled, parse

NUMBERS = st.floats(1e-6, 1e3)


def values(text: str | float, total: int = 100, per_epoch: int = 10) -> list[float]:
    schedule = parse(text)
    return [schedule.value(step, total, per_epoch) for step in range(total)]


def test_constants() -> None:
    assert values(0.5, total=3) == values("0.5", total=3) == values("constant(0.5)", total=3) == [0.5] * 3


def test_shapes_go_from_their_first_number_to_their_second() -> None:
    assert values("linear(1, 0)", total=4) == [1.0, 0.75, 0.5, 0.25]
    assert values("cosine(0.996, 1)", total=2) == pytest.approx([0.996, 0.998])
    expected = [1e-6 + (5e-4 - 1e-6) * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    assert values("cosine(5e-4, 1e-6)") == pytest.approx(expected)
    assert values("exponential(1, 0.01)", total=4) == pytest.approx([1, 0.01**0.25, 0.1, 0.01**0.75])


def test_multistep_is_the_lottery_ticket_recipe() -> None:
    steps = values("multistep(0.1, 0.1, 80ep, 120ep)", total=160 * 196, per_epoch=196)
    assert steps[80 * 196 - 1] == 0.1
    assert steps[80 * 196] == pytest.approx(0.01)
    assert steps[120 * 196 - 1] == pytest.approx(0.01)
    assert steps[120 * 196] == pytest.approx(0.001)


@pytest.mark.parametrize("length", ["20it", "2ep", "20%"])
def test_pieces_follow_each_other(length: str) -> None:
    steps = values(f"linear(0, 8, {length}) + cosine(8, 2)")
    assert steps[:3] == pytest.approx([0, 0.4, 0.8])
    assert steps[20] == 8
    assert steps[60] == pytest.approx(5)
    assert steps[99] > 2


def test_a_last_piece_with_a_length_ends_at_its_second_number() -> None:
    assert values("linear(1, 0, 10it)")[10:] == [0.0] * 90


@given(NUMBERS, NUMBERS, st.sampled_from(["linear", "cosine", "exponential"]), st.integers(1, 400))
def test_values_stay_within_their_bounds_and_move_one_way(a: float, b: float, name: str, total: int) -> None:
    schedule = parse(f"{name}({a!r}, {b!r})")
    steps = [schedule.value(step, total, 7) for step in range(total + 1)]
    low, high = schedule.bounds
    assert all(low * (1 - 1e-9) <= value <= high * (1 + 1e-9) for value in steps)
    assert steps[0] == pytest.approx(a)
    assert steps[-1] == pytest.approx(b)
    ordered = sorted(steps, reverse=a > b)
    assert steps == pytest.approx(ordered)


@given(NUMBERS, NUMBERS, st.integers(1, 50))
def test_the_text_of_a_schedule_means_the_schedule(a: float, b: float, epochs: int) -> None:
    schedule = parse(f" linear( {a!r},{b!r} ,{epochs}ep)+cosine({b!r}, {a!r})")
    assert parse(str(schedule)) == schedule


def test_one_meaning_has_one_spelling() -> None:
    adapter = TypeAdapter(Scheduled)
    assert adapter.validate_python("constant(1e-3)") == adapter.validate_python(0.001) == 0.001
    assert adapter.validate_python("cosine(1,1)") == 1.0
    assert adapter.validate_python("cosine( .5,1 )") == adapter.validate_python("cosine(0.5, 1.0)")


@pytest.mark.parametrize(
    ("text", "piece", "words"),
    [
        ("cosin(0, 1)", "cosin(0, 1)", "did you mean 'cosine'?"),
        ("linear(0, 1", "linear(0, 1", "in parentheses"),
        ("linear(0 1)", "linear(0 1)", "'0 1' is not"),
        ("linear(0, 1) + cosine(1, 0)", "linear(0, 1)", "needs a length"),
        ("linear(0, 1, 5ep) cosine(1, 0)", "linear(0, 1, 5ep) cosine(1, 0)", "in parentheses"),
        ("linear(0, 1, 5ep) + linear(0)", "linear(0)", "needs 2 numbers, given: 1"),
        ("constant(1, 2)", "constant(1, 2)", "needs 1 number, given: 2"),
        ("linear(0, 1, 5ep, 6ep)", "linear(0, 1, 5ep, 6ep)", "one length at most"),
        ("linear(0, 5ep, 1)", "linear(0, 5ep, 1)", "'1' is not a length; numbers come first"),
        ("multistep(1, 0.1)", "multistep(1, 0.1)", "at least one milestone"),
        ("multistep(1, 0.1, 8ep, 4ep)", "multistep(1, 0.1, 8ep, 4ep)", "must increase"),
        ("multistep(1, 0.1, 8ep, 90%)", "multistep(1, 0.1, 8ep, 90%)", "all of one unit"),
        ("exponential(0, 1)", "exponential(0, 1)", "above 0"),
        ("linear(0, 1, 0ep)", "linear(0, 1, 0ep)", "above 0"),
        ("linear(0, x)", "linear(0, x)", "'x' is not"),
        ("linear(0, 1e999)", "linear(0, 1e999)", "above 1.8e308"),
        ("__import__('os')", "__import__('os')", "unknown schedule '__import__'"),
        ("", "", "in parentheses"),
    ],
)
def test_errors_name_the_piece(text: str, piece: str, words: str) -> None:
    with pytest.raises(ValueError, match="schedule") as caught:
        parse(text)
    assert f": '{piece}' is wrong: " in str(caught.value)
    assert words in str(caught.value)


def test_signs_are_no_joints() -> None:
    assert parse("linear(+1, -1e+2, 5ep)+constant(+2)") == parse("linear(1, -100, 5ep) + constant(2)")
