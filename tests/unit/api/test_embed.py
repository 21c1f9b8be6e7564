"""A run's networks and embeddings from Python are those that the run itself had."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import rt_scale as rt
from rt_scale import plugins
from rt_scale.data.datasets.images import scaled
from rt_scale.data.prepare import Prepared, prepare
from rt_scale.probes import evaluator
from tests.plugins import Write, write
from tests.unit.api.conftest import TINY

__all__ = ["write"]
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

MOVES = {"teacher": {"update": "ema", "momentum": 0.5, "statistics": "student"}}
CASES: dict[str, dict[str, Any]] = {
    "convnet": {},
    "moving teacher": MOVES,
    "resized": {"data.size": 12},
    "one size alone": {"encoder": {"name": "mlp_16_2"}, "student.alpha": 0.5},
    "bf16": {"precision": "bf16"},
    "float64": {"precision": "float64"},
    "odd batches": {"train.batch_size": 17},
}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Embeddings that the probes of runs compute by networks meanwhile, in order."""
    found: list[Tensor] = []
    real = evaluator.embed

    def embed(encoder: nn.Module, *given: Any, **more: Any) -> Any:
        features = real(encoder, *given, **more)
        if not isinstance(encoder, nn.Flatten):  # the probe of pixels
            found.append(features.x.clone())
        return features

    monkeypatch.setattr(evaluator, "embed", embed)
    return found


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_embeddings_are_those_of_the_probes_bit_for_bit(
    changes: dict[str, Any], places: dict[str, Any], digits: Prepared, probed: list[Tensor], tmp_path: Path
) -> None:
    run = rt.run(rt.load(TINY, changes), threads=1, **places)
    tests = digits.test.read_all()
    seen = [each for each in probed if len(each) == len(tests)]
    # The data set is not needed any more.
    alone = rt.open_store(places["store"], data_dir=tmp_path / "nowhere").run(run.name)
    assert torch.equal(alone.embed(tests, device="cpu"), seen[-1])
    initial = alone.embed(tests, "init", device="cpu")
    starts_as_teacher = changes != MOVES and "student.alpha" not in changes  # it is not probed again
    assert torch.equal(initial, seen[0 if starts_as_teacher else 1])
    assert not torch.equal(initial, seen[-1])
    assert torch.equal(alone.embed(tests, step=0, device="cpu"), initial)
    if changes != MOVES:
        assert torch.equal(alone.embed(tests, "teacher", device="cpu"), seen[0])


def test_an_encoder_and_images_of_ones_own(
    places: dict[str, Any], write: Write, probed: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own_encoder", "own_data"):
        write(f"{name}.py", (EXAMPLES / f"{name}.py").read_text())
    own = {"data": {"name": "own_data:stripes"}, "encoder": {"name": "own_encoder:Tiny"}}
    run = rt.run(rt.load(TINY, own), threads=1, **places)
    images = importlib.import_module("own_data").stripes()[2][..., None]
    alone = rt.open_store(places["store"], data_dir=tmp_path / "nowhere").run(run.name)
    assert torch.equal(alone.embed(images, device="cpu"), [each for each in probed if len(each) == len(images)][-1])
    write("own_encoder.py", (EXAMPLES / "own_encoder.py").read_text() + "# changed\n")
    monkeypatch.setattr(plugins, "_loaded", {})  # as in another process
    with pytest.raises(rt.InputError, match="own_encoder"):
        alone.network()


def test_every_form_of_images_gives_the_same_inputs(places: dict[str, Any], digits: Prepared) -> None:
    run = rt.run(rt.load(TINY), **places)
    images = digits.test.read_all()[:40]
    inputs = run.preprocess(images)
    mean, std = digits.info.mean[0], digits.info.std[0]
    wanted = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(inputs.double(), wanted, atol=1e-5, rtol=1e-5)
    pictures = [Image.fromarray(image[..., 0]) for image in images]
    forms = (
        torch.from_numpy(images),
        images.transpose(0, 3, 1, 2),
        pictures,
        [each.convert("RGB") for each in pictures],
    )
    for form in forms:
        assert torch.equal(run.preprocess(form), inputs)
    assert torch.equal(run.encoder()(inputs), run.network().encoder(inputs))
    assert torch.equal(run.network("teacher")(inputs), run.network("teacher", 0)(inputs))


def test_images_of_another_size_are_scaled_as_data_are_prepared(
    places: dict[str, Any], data_dir: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (9, 14, 3), np.uint8)) for _ in range(80)]
    for number, picture in enumerate(pictures):
        file = tmp_path / "photos" / str(number % 2) / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    prepare("photos", data_dir, tmp_path / "photos", size=8)
    run = rt.run(rt.load(TINY, {"data": {"name": "photos"}, "data.size": 10, "probe.also": ["photos"]}), **places)
    fitting = np.stack([np.asarray(scaled(picture, 8)) for picture in pictures])
    inputs = run.preprocess(pictures)
    assert inputs.shape == (80, 3, 10, 10)
    assert torch.equal(inputs, run.preprocess(fitting))
    assert torch.equal(inputs, run.preprocess(np.stack([np.asarray(picture) for picture in pictures])))
    assert torch.equal(inputs, run.preprocess(pictures, data="photos"))
    assert run.embed(pictures, batch_size=7, device="cpu").shape == (80, run.encoder().embed_dim)


def test_a_run_on_noise_takes_the_mean_of_a_set_that_it_probes_on(places: dict[str, Any], digits: Prepared) -> None:
    noise = {"data": {"name": "gaussian", "samples": 40, "size": 8, "channels": 1}, "probe.also": ["digits"]}
    run = rt.run(rt.load(TINY, noise), **places)
    images = digits.test.read_all()[:3]
    on_digits = rt.run(rt.load(TINY), **places).preprocess(images)
    assert torch.equal(run.preprocess(images, data="digits"), on_digits)
    assert run.embed(images, data="digits", device="cpu").shape == (3, run.encoder().embed_dim)
    with pytest.raises(rt.InputError, match=r"drawn inputs.*: digits\."):
        run.preprocess(images)
    with pytest.raises(rt.InputError, match="Did you mean 'digits'"):
        run.preprocess(images, data="digit")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), r"uint8 \[2, 8, 8, 3\].*1 channel\."),
        (torch.zeros(2, 1, 8, 8), "float32"),
        (np.zeros((8, 8, 1), np.uint8), r"\[8, 8, 1\]"),
        (np.zeros((0, 8, 8, 1), np.uint8), "at least one"),
        (np.uint8(3), "uint8"),
        ([], "a list"),
        (["digit.png"], "a list"),
        (Image.new("L", (8, 8)), "a Image"),
    ],
)
def test_other_images_are_refused(images: Any, said: str, places: dict[str, Any]) -> None:
    run = rt.run(rt.load(TINY), **places)
    with pytest.raises(rt.InputError, match=said):
        run.embed(images)


def test_what_cannot_be_is_refused(places: dict[str, Any], digits: Prepared) -> None:
    run, images = rt.run(rt.load(TINY), **places), digits.test.read_all()[:3]
    with pytest.raises(rt.InputError, match=r"at step 3\..*0, "):
        run.embed(images, step=3)
    with pytest.raises(rt.InputError, match="batch_size is 0"):
        run.embed(images, batch_size=0)
    with pytest.raises(rt.InputError, match="cuda:99"):
        run.embed(images, device="cuda:99")
