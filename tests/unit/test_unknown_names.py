"""A name that a table has and the code does not know is refused; nothing else is computed in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rt_scale.data.augment.views import augmented_inputs
from rt_scale.data.loaders.choose import training_loader
from rt_scale.losses.chunked import wide_distance
from rt_scale.losses.distances import distance, view_pairs
from rt_scale.models import encoders
from rt_scale.models.projector import Outputs
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.errors import InputError
from rt_scale.spec.networks import EncoderSpec

LOGITS = torch.zeros(2, 3)
SIDE = Outputs(torch.zeros(2, 3), torch.zeros(4, 3))
NEW: Any = SimpleNamespace(kind="new")
SPEC: Any = SimpleNamespace(train=SimpleNamespace(batch_size=2), seeds=SimpleNamespace(ordering=0))
DATA: Any = SimpleNamespace(train=None)
CASES: dict[str, Callable[[], object]] = {
    "objective": lambda: distance("new", LOGITS, LOGITS),
    "objective of wide outputs": lambda: wide_distance("new", SIDE, SIDE),
    "pairing": lambda: view_pairs("new", 1, 2),
    "augmentation": lambda: augmented_inputs(
        torch.zeros(1, 4, 4, 1, dtype=torch.uint8),
        NEW,
        torch.Generator(),
        mean=(0.0,),
        std=(1.0,),
        size=None,
        dtype=torch.float32,
    ),
    "loader": lambda: training_loader(SPEC, DATA, "new", torch.device("cpu"), None),
}


@pytest.mark.parametrize("what", CASES)
def test_it_is_refused_with_what_is_known(what: str) -> None:
    with pytest.raises(InputError, match="new"):
        CASES[what]()


@pytest.mark.parametrize("name", ["resnet18", "convnet_8_1"])
def test_a_family_without_a_builder_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = parse_encoder(name)
    described = SimpleNamespace(**{field.name: getattr(known, field.name) for field in dataclasses.fields(known)})
    described.family, described.stages, described.design = "new", known.stages, known.design
    described.check = described.check_image = lambda **given: None
    monkeypatch.setattr(encoders, "parse_encoder", lambda name: described)
    with pytest.raises(InputError, match="new"):
        encoders.build_encoder(EncoderSpec(name=name, norm="none"), channels=3, size=32)
