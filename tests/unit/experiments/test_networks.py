"""The networks of stored runs, with the weights of a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rt_scale.data.prepare import Prepared, open_prepared, prepare
from rt_scale.experiments.networks import images_of, load_network, set_record, stored_spec
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.run_dir import RunDir

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
MOVES = {"encoder.norm": "batch", "teacher.update": "ema", "teacher.momentum": 0.5, "teacher.statistics": "student"}
EVERY = {"train.epochs": 3}
"""Three checkpoints with options that write one an epoch."""


def finished(spec: RunSpec, given: Options) -> RunDir:
    run(spec, given)
    return given.store.run(spec)


@pytest.mark.parametrize("changes", [{}, MOVES, {"precision": "float64"}], ids=["frozen", "moving", "float64"])
@pytest.mark.parametrize(
    ("role", "step", "file"),
    [
        ("student", None, "6/student"),
        ("student", 4, "4/student"),
        ("student", 0, "0/student"),
        ("init", None, "0/student"),
        ("init", 0, "0/student"),
        ("teacher", None, "6/teacher"),
        ("teacher", 4, "4/teacher"),
    ],
)
def test_a_network_has_the_weights_of_the_checkpoint(
    tiny: Tiny, settings: Make, changes: dict[str, Any], role: Any, step: int | None, file: str
) -> None:
    given = settings(checkpoint_seconds=0.0)
    run_dir = finished(tiny(changes | EVERY), given)
    network = load_network(run_dir, role, given.data_dir, step)
    if role == "teacher" and changes != MOVES:
        file = "0/teacher"
    saved = load_file(run_dir.path / "checkpoints" / f"{file}.safetensors")
    state = network.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) and state[name].dtype == saved[name].dtype for name in saved)
    assert not network.training


def test_a_network_needs_no_data_set(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    run_dir = finished(tiny(), settings())
    network = load_network(run_dir, "student", tmp_path / "nowhere")
    assert network.encoder(torch.zeros(2, 1, 8, 8)).shape == (2, network.encoder.embed_dim)
    noise = {"data": {"name": "gaussian", "samples": 20, "size": 8, "channels": 1}, "probe.also": ["digits"]}
    run_dir = finished(tiny(noise | {"probe.knn": 0}), settings())
    assert images_of(run_dir, tmp_path / "nowhere").size == 8


def test_what_is_not_there_is_refused(tiny: Tiny, settings: Make) -> None:
    given = settings()
    spec = tiny()
    with pytest.raises(InputError, match="never begun"):
        load_network(given.store.run(spec), "student", given.data_dir)
    run_dir = finished(spec, given)
    assert stored_spec(run_dir) == spec
    with pytest.raises(InputError, match=r"no student at step 3\..*: 0, 2, 4\."):
        load_network(run_dir, "student", given.data_dir, 3)
    with pytest.raises(InputError, match="'init' is the student at step 0"):
        load_network(run_dir, "init", given.data_dir, 4)
    with pytest.raises(InputError, match="Did you mean 'student'"):
        load_network(run_dir, "studnet", given.data_dir)  # type: ignore[arg-type]
    # The result says that step 4 was the last: the one before it is not taken in its place.
    shutil.rmtree(run_dir.path / "checkpoints" / "4")
    with pytest.raises(RunError, match=f"student of run {spec.name}.*manifest.json is missing"):
        load_network(run_dir, "student", given.data_dir)
    shutil.rmtree(run_dir.path / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint"):
        load_network(run_dir, "student", given.data_dir)


def test_an_earlier_versions_run_reads_the_same_data_set_or_none(
    tiny: Tiny, settings: Make, digits: Prepared, tmp_path: Path
) -> None:
    given = settings()
    run_dir = finished(tiny(), given)
    path = run_dir.path / "environment.json"
    record = json.loads(path.read_text())
    del record["data"]["images"]
    path.write_text(json.dumps(record))
    assert images_of(run_dir, given.data_dir) == set_record(digits).images
    with pytest.raises(InputError, match="'digits' is not prepared"):
        images_of(run_dir, tmp_path / "nowhere")
    elsewhere = tmp_path / "elsewhere"
    prepare("other", elsewhere, _folder(tmp_path / "original"))
    (elsewhere / "other").rename(elsewhere / "digits")
    with pytest.raises(InputError, match="of other contents"):
        images_of(run_dir, elsewhere)
    open_prepared("digits", tmp_path / "again")
    assert images_of(run_dir, tmp_path / "again") == set_record(digits).images


def _folder(path: Path) -> Path:
    from PIL import Image

    for number in range(20):
        file = path / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(file)
    return path
