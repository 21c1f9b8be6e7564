"""What AugmentSpec takes and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rt_scale.spec.data import AugmentSpec


def test_nothing_is_augmented_unless_asked_for() -> None:
    assert AugmentSpec().kind == "none"


@pytest.mark.parametrize("kind", ["none", "crop_flip", "multicrop"])
def test_a_dumped_spec_is_read_back(kind: str) -> None:
    spec = AugmentSpec(kind=kind)
    assert AugmentSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flip": 0.1}, "kind none does not use flip; it takes no other field"),
        ({"kind": "crop_flip", "jitter": {"hue": 0.2}}, "kind crop_flip does not use jitter; it takes flip, padding"),
        ({"kind": "multicrop", "padding": 2}, "kind multicrop does not use padding"),
        ({"kind": "multicrop", "local_scale": (0.5, 0.2)}, "local_scale must be two numbers, 0 < least <= largest"),
        ({"kind": "multicrop", "ratio": (0.0, 1.0)}, "ratio must be two numbers"),
        ({"kind": "multicrop", "blur": {"sigma": (2.0, 1.0)}}, "sigma must be two numbers"),
        ({"kind": "multicrop", "jitter": {"hue": 0.6}}, "less than or equal to 0.5"),
        ({"kind": "multicrop", "global_views": 0}, "greater than or equal to 1"),
        ({"kind": "multicrop", "gray": 0.2}, "Extra inputs"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentSpec.model_validate(given)


@pytest.mark.parametrize("given", [{"kind": "crop_flip", "padding": 2}, {"kind": "multicrop", "ratio": (1.0, 1.0)}])
def test_the_fields_of_a_kind_are_taken(given: dict[str, Any]) -> None:
    spec = AugmentSpec.model_validate({**given, "flip": 0.0})
    assert spec.model_dump(include={*given, "flip"}) == {**given, "flip": 0.0}
