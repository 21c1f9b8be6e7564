"""What a spec refuses, and how it says what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.document import build_run
from rt_scale.spec.errors import InputError

SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"alpha": 1.5}}, ["student.alpha", "1.5", "less than or equal to 1"]),
        ({"student": {"alpha": 0.5, "epsilon": 0.1}}, ["two forms of one choice"]),
        ({"student": {"epsilon": -0.1}}, ["student.epsilon", "greater than or equal to 0"]),
        ({"student": {"alpha": -0.1}}, ["student.alpha", "greater than or equal to 0"]),
        ({"student": {"alpha": float("nan")}}, ["student.alpha", "finite"]),
        ({"projector": {"out_dim": 0}}, ["projector.out_dim", "greater than or equal to 1", "0"]),
        ({"projector": {"out_dim": 65537}}, ["projector.out_dim", "65536"]),
        ({"projector": {"hidden": [0]}}, ["projector.hidden.0", "greater than or equal to 1", "0"]),
        ({"encoder": {"name": "resnet81"}}, ["encoder", "'resnet81'", "Did you mean 'resnet18'?"]),
        ({"encoder": {"name": "vgg11", "norm": "bach"}}, ["encoder.norm", "did you mean 'batch'?"]),
        ({"encoder": {"name": "vgg11", "width": 0}}, ["encoder.width", "greater than 0"]),
        ({"train": {"epohcs": 3}}, ["train.epohcs", "unknown key", "did you mean 'epochs'?"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "greater than or equal to 1"]),
        ({"train": {"optimizer": {"lr": 0}}}, ["train.optimizer.lr", "greater than 0"]),
        ({"train": {"optimizer": {"lr": -1}}}, ["train.optimizer.lr", "greater than 0"]),
        (
            {"train": {"optimizer": {"lr": "cosin(1, 0)"}}},
            ["train.optimizer.lr", "did you mean 'cosine'?", "unknown schedule 'cosin'"],
        ),
        ({"train": {"optimizer": {"weight_decay": "linear(-1, 0)"}}}, ["weight_decay", "from -1 to 0"]),
        ({"train": {"optimizer": {"clip": 0}}}, ["train.optimizer.clip", "greater than 0"]),
        ({"train": {"optimizer": {"name": "adma"}}}, ["'adma'", "did you mean 'adam'?"]),
        ({"train": {"optimizer": {"momentum": 0.9}}}, ["momentum belongs to sgd", "adamw"]),
        ({"probe": {"every": "5"}}, ["probe.every", "'5' is not a duration", "'5ep'"]),
        ({"probe": {"linear": False, "knn": 0}}, ["nothing would be probed"]),
        ({"probe": {"l2": 0}}, ["probe.l2", "greater than 0"]),
        ({"probe": {"also": "mnist"}}, ["probe.also"]),
        ({"probe": {"own": False}}, ["nothing would be probed", "also"]),
        ({"probe": {"own": False, "also": ["mnist"], "statistics": True}}, ["set own to true"]),
        ({"probe": {"also": ["../x"]}}, ["probe.also"]),
        ({"probe": {"also": ["mnist", "digits", "mnist"]}}, ["probe.also", "once", "mnist, digits, mnist"]),
        ({"seeds": {"teacher": -1}}, ["seeds.teacher", "greater than or equal to 0"]),
        ({"seeds": {"order": -1}}, ["seeds.order", "greater than or equal to 0"]),
        ({"seeds": {"order": "random"}}, ["seeds.order", "a whole number is expected", "'random'"]),
        ({"seeds": {"order": True}}, ["seeds.order", "a whole number is expected"]),
        ({"data": {}}, ["data.name", "required"]),
        ({"data": {"name": "../x"}}, ["data.name"]),
        ({"student": {"start_from": {"run": SMALL}, "alpha": 0.5}}, ["student", "alpha, start_from", "two forms"]),
        (
            {"student": {"start_from": {"run": SMALL}, "alpha": 0.5, "epsilon": 0}},
            ["alpha, epsilon, start_from: they are three forms of one choice, give one of them"],
        ),
        ({"student": {"start_from": {}}}, ["student.start_from.run", "required"]),
        ({"student": {"start_from": {"run": SMALL, "tkae": "init"}}}, ["unknown key", "did you mean 'take'?"]),
        (
            {"student": {"start_from": {"run": SMALL, "take": "start"}}},
            ["take", "'start' is not known", "student, teacher"],
        ),
        ({"teacher": {"start_from": {"run": SMALL, "part": "head"}}}, ["part", "network, encoder"]),
        (
            {"teacher": {"start_from": {"run": {**SMALL, "data": {"nam": "digits"}}}}},
            ["teacher.start_from.run.data.nam: unknown key", "did you mean 'name'?"],
        ),
        (
            {"teacher": {"start_from": {"run": {**SMALL, "student": {"alpha": 2}}}}},
            ["teacher.start_from.run.student.alpha", "less than or equal to 1"],
        ),
        ({"student": {"temperature": 0}}, ["student.temperature", "must be greater than 0", "0.0 was given"]),
        ({"student": {"center": 2}}, ["student.center", "must lie in [0, 1]", "2.0 was given"]),
        ({"teacher": {"update": "ema", "momentum": "cosine(0.9, 1.1)"}}, ["teacher.momentum", "[0, 1]", "0.9 to 1.1"]),
        (
            {"teacher": {"momentum": 0.5}},
            ["teacher", "momentum belongs to update: ema; with update: none leave it out"],
        ),
        ({"teacher": {"update": "previous_epoch", "momentum": 0.5}}, ["with update: previous_epoch leave it out"]),
        ({"teacher": {"statistics": "student"}}, ["statistics follow the student only in a teacher that does"]),
        ({"teacher": {"statistics": "batch"}}, ["teacher.statistics", "initial, student, data"]),
        ({"teacher": {"update": "emma"}}, ["teacher.update", "did you mean 'ema'?"]),
        ({"teacher": {"mode": "evaluation"}}, ["teacher.mode", "eval, train"]),
        ({"teacher": {"temperature": "linear(0.04, 0)"}}, ["teacher.temperature", "which goes down to 0"]),
        ({"teacher": {"temperature": "linear(0.04"}}, ["teacher.temperature", "in parentheses"]),
        ({"teacher": {"center": -0.1}}, ["teacher.center", "must lie in [0, 1]"]),
        ({"objective": {"name": "cross-entropy"}}, ["objective.name", "did you mean 'cross_entropy'?"]),
        ({"objective": {"pairing": "oposite"}}, ["objective.pairing", "did you mean 'opposite'?"]),
        ({"objective": {"label_noise": 1.5}}, ["objective.label_noise", "less than or equal to 1"]),
        ({"augment": {"kind": "multicrops"}}, ["augment.kind", "did you mean 'multicrop'?"]),
        ({"augment": {"kind": "multicrop", "jitter": {"hue": 1}}}, ["augment.jitter.hue", "less than or equal to 0.5"]),
        ({"augment": {"flip": 0.1}}, ["augment", "kind none does not use flip"]),
        ({"data": {"name": "digits", "sigma": 1}}, ["data: sigma belong to data.name: gaussian; 'digits' has its own"]),
        ({"data": {"name": "digits", "sigma": 1, "channels": 3}}, ["sigma and channels belong"]),
        ({"data": {"name": "gaussian"}}, ["data: gaussian inputs are drawn", "size and samples must be given"]),
        ({"data": {"name": "gaussian", "size": 8}}, ["samples must be given"]),
        ({"data": {"name": "gaussian", "size": 8, "samples": 9, "channels": 2}}, ["data.channels", "allowed: 1, 3"]),
        ({"data": {"name": "gaussian", "size": 8, "samples": 9, "sigma": 0}}, ["data.sigma", "greater than 0"]),
        ({"kind": "distil"}, ["kind", "did you mean 'distill'?"]),
        ({"kind": "prune"}, ["kind", "distill, supervise"]),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_run({**SMALL, **changes}, "spec.yaml")
    message = str(caught.value)
    assert message.startswith("spec.yaml is not valid: ")
    assert "\n" not in message
    for word in words:
        assert word in message
