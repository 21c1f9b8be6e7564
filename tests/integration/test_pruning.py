"""A chain of pruned runs that is killed in any of its rounds ends bitwise as one that was left alone."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.integration.dying import DIES, outcome
from tests.integration.test_resume import command_for

Start = Callable[..., subprocess.Popen[str]]
SPEC: dict[str, Any] = {
    "kind": "supervise",
    "data": {"name": "digits", "samples": 256},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10, "init": "torch"},
    "augment": {"kind": "crop_flip", "padding": 1},
    "train": {
        "epochs": 4, "batch_size": 64,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "clip": 1},
    },
    "probe": {"every": None, "epochs": 1, "knn": 0, "standardized": False},
}  # fmt: skip
"""4 epochs of 4 steps."""

# Moment of death -> how many of the plain run, the stopped one, rounds 1 and 2 are finished afterwards.
MOMENTS = {
    "rt_scale.experiments.train::round_mask:1:before": 2,
    "rt_scale.experiments.train::save_mask:1:before": 2,  # the first checkpoint of round 1 is half there
    "rt_scale.training.pruning:Mask:_hold:5:after": 2,  # in the middle of an epoch of round 1
    "rt_scale.store.run_dir:RunDir:complete:1:before": 2,  # round 1 is done but for its result
    "rt_scale.experiments.train::round_mask:1:after": 3,  # round 2 has its mask, and nothing is saved
    "rt_scale.training.pruning:Mask:_hold:6:after": 3,
    "rt_scale.experiments.train::save_mask:1:after": 3,
}


def test_killed_in_a_round_the_next_has_the_same_bits(tmp_path: Path, data_dir: Path, start: Start, cli: Any) -> None:
    document = {**SPEC, "prune": {"round": 2, "rewind": "6it"}}
    first, spec = (RunSpec.model_validate({**document, "prune": {"round": n, "rewind": "6it"}}) for n in (1, 2))
    chain = (RunSpec.model_validate(SPEC), *first.dependencies, first, spec)
    alone, store = Store(tmp_path / "alone"), Store(tmp_path / "store")
    run(spec, Options(store=alone, data_dir=data_dir, device="cpu", threads=1))
    command = command_for(document, tmp_path, data_dir)
    for moment, finished in MOMENTS.items():
        process = start(moment, *command, program=DIES)
        out, err = process.communicate(timeout=480)
        assert process.returncode == -signal.SIGKILL, (moment, out, err)
        done = {each.name for each in chain if store.run(each).result() is not None}
        assert len(done) == finished, moment
        assert store.run(spec).result() is None
    ended = cli(*command)
    assert ended.code == 0, ended
    for each in (first, spec):
        found = outcome(store.run(each))
        assert found == outcome(alone.run(each))
        assert found[0].keys() == {"student.safetensors", "mask.safetensors"}
