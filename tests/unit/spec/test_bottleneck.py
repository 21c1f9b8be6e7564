"""The parts of the l2-bottleneck as text and as booleans."""

from __future__ import annotations

import itertools

import pytest

from rt_scale.spec.networks import PAPER, PARTS, parse_parts, part_flags


def test_the_papers_parts() -> None:
    assert part_flags(PAPER) == {
        "weight_norm_1": False,
        "linear_1": True,
        "feature_norm_1": True,
        "weight_norm_2": True,
        "linear_2": True,
        "feature_norm_2": False,
    }


def test_the_papers_parts_have_names() -> None:
    """Without weight norm 2 it is what the authors' code computes; both are points of figure 12's sweep."""
    assert (parse_parts("as_printed"), parse_parts("as_published")) == (PAPER, "-/lb/fn/-/l/-")


def test_text_and_booleans_mean_the_same_and_nonsense_is_refused() -> None:
    allowed = 0
    for bits in itertools.product([False, True], repeat=6):
        flags = dict(zip(PARTS, bits, strict=True))
        text = "/".join(mark if flags[name] else "-" for name, mark in PARTS.items())
        wn1, l1, fn1, wn2, l2, fn2 = bits
        nonsense = (wn1 and not l1) or (wn2 and not l2) or (fn1 and fn2 and not l2)
        if nonsense:
            for given in (text, flags):
                with pytest.raises(ValueError, match=r"needs linear|changes nothing"):
                    parse_parts(given)
        else:
            allowed += 1
            assert parse_parts(text) == parse_parts(flags) == text
            assert part_flags(text) == flags
    assert allowed == 3 * 2 * 3 * 2 - 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("-/lb/fn", "has 3 parts"),
        ("published", "named are as_printed, as_published"),
        ("-/l/fn/wn/l/-", "allowed for linear_1: 'lb' or '-'"),
        ({"linear1": True}, "did you mean 'linear_1'?"),
        ({"linear_1": True}, "missing parts: weight_norm_1"),
        (dict.fromkeys(PARTS, 1), "allowed: true or false"),
    ],
)
def test_what_cannot_be_read_is_refused(given: object, words: str) -> None:
    with pytest.raises(ValueError, match="part") as caught:
        parse_parts(given)
    assert words in str(caught.value)
