"""Hashes name directories: they are what they were when these were taken, of every part and in every grid."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.grid import expand
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec

DIGITS = {"name": "digits"}
SMALL: dict[str, Any] = {"data": DIGITS, "encoder": {"name": "convnet_32_2"}}
ENCODERS = ["convnet_32_2", "vgg11", "resnet18", "preresnet18", "resnet20", "vit_tiny", "mlp_512_2", "flatten"]
OTHER = {"run": {"same_but": {"student": {"alpha": 1.0}, "train": {"epochs": 3}}}, "take": "teacher"}
NOISE = {"name": "gaussian", "size": 8, "samples": 100}
VIEWS = {"augment": {"kind": "multicrop", "local_size": 32}, "objective": {"pairing": "opposite"}}
RUNS = ["same", {"same_but": {"student": {"alpha": 0.25}}}, {**SMALL, "student": {"alpha": 1}}]
GRIDS: dict[str, dict[str, Any]] = {
    "encoders": {"base": SMALL, "axes": {"encoder.name": ENCODERS}},
    "norms": {"base": SMALL, "axes": {"encoder.norm": [None, "batch", "group8"], "encoder.width": [0.5, 1]}},
    "parts": {
        "base": SMALL,
        "axes": {"projector.parts": ["-/lb/-/-/-/-", "wn/lb/fn/-/l/fn"], "projector.out_dim": [10, 1024]},
    },
    "starts": {
        "base": {**SMALL, "student": {"alpha": 0.5}},
        "axes": {"teacher.start_from": [None, {"run": "same"}, OTHER], "student.temperature": [1, "linear(0.1, 1)"]},
        "seeds": [2],
    },
    "whole runs": {"base": SMALL, "axes": {"teacher.start_from.run": RUNS}, "seeds": 2},
    "student": {"base": {**SMALL, "student": {"start_from": {"run": "same"}}}, "axes": {"train.epochs": [1, 2]}},
    "optimizers": {
        "base": SMALL,
        "zip": [{"train.optimizer.name": ["sgd", "adam"], "train.optimizer.momentum": [0.9, -0.0]}],
        "axes": {"train.optimizer.lr": [1, "cosine(1e-3, 0)"], "precision": ["float32", "bf16"]},
    },
    "views": {"base": {**SMALL, **VIEWS}, "axes": {"teacher.update": ["none", "ema", "previous_epoch"]}},
    "labels": {
        "base": {**SMALL, "kind": "supervise", "projector": {"out_dim": 10}},
        "axes": {"objective.label_noise": [0, 0.5], "probe.also": [[], ["b", "a"]]},
    },
    "noise": {
        "base": {**SMALL, "data": NOISE, "probe": {"also": ["digits"]}},
        "axes": {"data.sigma": [None, 2], "data.channels": [None, 1]},
    },
    "seeds": {
        "base": {**SMALL, "seeds": {"teacher": 7}},
        "axes": {"seeds.data": [5], "student.epsilon": [None, 0.1]},
        "seeds": [0, 3],
    },
}
PINNED = {
    "encoders": (
        "805ea6b5c64f992f ca32d597caf2ab16 1bfa1ed28abbe949 4ed1b25260b8cdba 2f40bc88c9bb4c4c 94439302d3a8f1cf "
        "b1d237a4a5c10baa a468d899bd1a38c2"
    ),
    "norms": ("72432f1efa46c5c4 805ea6b5c64f992f b671a0b25f692ccc f5f94b4d7765ec9b b1e5ee42479374cf f586c7bd96a87a7d"),
    "parts": ("152c9895fccbd0e2 768807998f3032f6 054740796350082e 4370d09c797a172f"),
    "starts": ("1f12be707aeb4390 691e7a295aed459c 0228a134eb03a6f8 5fd80ab1a5cfa73f 4ebbdf93b0796082 918d72d3aa0cfe7d"),
    "whole runs": (
        "12ddf02a699f902d b6745782e29954de 93ac5fe2af24bcf6 06446cf5e154e27b 9ac1730dba751748 2598f060b7be1d78"
    ),
    "student": ("9860e0199a4fbf96 939857441271250b"),
    "optimizers": (
        "8bb01bf78bb796e2 f674184aa829a444 b8c3e72bbce61710 f83fa30c94d45f41 20e3d0fcbca5b19c b63c1d9bb54ce205 "
        "e076cc03d57ccf2d bd953202a13a53f7"
    ),
    "views": ("641bfd569cbfa7bb 9928f0b0328a7a75 b7c4b7cbed1bf0e2"),
    "labels": ("36141c0748a488f4 5519b1a574d13508 e2df9231ca41afec 8228f76dd251dbbd"),
    "noise": ("ba2453a268ce536e b5e262bc3523abbf 633e1174b3772dd1 a7d4fa60f92c8202"),
    "seeds": ("357fa0c398e4bb89 8c9c45ebfa9d2ece 1b7e6f1c16063baa 1505dc5a225effae"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_hashes_are_what_they_were(name: str) -> None:
    points = expand(SweepSpec.model_validate({"name": "s", **GRIDS[name]}))
    assert [point.spec.hash for point in points] == PINNED[name].split()


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_makes_the_specs_that_are_made_one_by_one(name: str) -> None:
    for point in expand(SweepSpec.model_validate({"name": "s", **GRIDS[name]})):
        alone = RunSpec.model_validate(point.spec.canonical())
        assert alone == point.spec
        assert [alone.hash, alone.configuration_hash] == [point.spec.hash, point.spec.configuration_hash]
