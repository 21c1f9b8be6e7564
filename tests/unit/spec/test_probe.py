"""ProbeSpec: the paper's defaults, and which probes are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.run import RunSpec
from rt_scale.spec.training import ProbeSpec


def test_probe_defaults_are_the_papers() -> None:
    probe = ProbeSpec()
    assert (probe.knn, probe.epochs, probe.batch_size, probe.lr) == (20, 10, 256, 1e-3)
    assert probe.kinds == ("linear", "knn", "linear_standardized", "knn_standardized")


def test_the_probes_that_are_asked_for_by_name() -> None:
    probe = ProbeSpec(linear=False, knn=0, ridge=True, logistic=True)
    assert probe.kinds == ("logistic", "ridge", "logistic_standardized", "ridge_standardized")
    assert ProbeSpec(knn=1, ridge=True, standardized=False).kinds == ("linear", "knn", "ridge")


def test_the_order_of_further_data_sets_is_no_difference() -> None:
    small = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}
    lists = (["stl10", "mnist"], ["mnist", "stl10"], ["mnist"], [])
    names = [RunSpec.model_validate({**small, "probe": {"also": also}}).name for also in lists]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[3] == RunSpec.model_validate(small).name


def test_without_further_data_sets_their_size_is_no_difference() -> None:
    assert ProbeSpec(also_size="own") == ProbeSpec()
    assert ProbeSpec(also_size="own").canonical_text == ProbeSpec().canonical_text
    assert ProbeSpec(also=("mnist",), also_size="own").also_size == "own"


LABELS: dict[str, Any] = {"kind": "supervise", "projector": {"out_dim": 10}}
NONE = {"linear": False, "knn": 0}


def run_spec(**fields: Any) -> TrainingSpec:
    found = RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, **fields})
    assert isinstance(found, TrainingSpec)
    return found


@pytest.mark.parametrize("labels", [{}, LABELS], ids=["distill", "supervise"])
def test_without_baselines_the_student_alone_is_probed(labels: dict[str, Any]) -> None:
    spec = run_spec(**labels, probe={"baselines": False, "also": ["mnist"]})
    probed = [name for name in spec.logged if name.startswith("probe")]
    assert probed == [f"probe{data}/student/{kind}" for data in ("", "@mnist") for kind in spec.probe.kinds]
    assert spec.probes == ()
    assert run_spec(**labels).probes
    assert spec.name != run_spec(**labels, probe={"also": ["mnist"]}).name


def test_a_classifier_may_be_tested_alone() -> None:
    spec = run_spec(**LABELS, probe=NONE)
    assert [name for name, when in spec.logged.items() if when == "probe"] == ["test/loss", "test/accuracy"]
    assert (spec.probes, spec.probe.roles) == ((), ())
    idle = {"baselines": False, "standardized": False, "epochs": 3, "lr": 0.5, "l2": 0.5, "batch_size": 8}
    assert run_spec(**LABELS, probe={**NONE, **idle}).name == spec.name
    assert run_spec(**LABELS, probe={**NONE, "every": "1ep"}).name != spec.name
    own = {"name": "my_probes:centroids", "source": "0" * 64}
    assert run_spec(**LABELS, probe={**NONE, "extra": [own]}).probe.roles == ("student", "teacher", "input")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"probe": NONE}, "nothing would be probed, and a distillation"),
        ({**LABELS, "probe": {**NONE, "also": ["mnist"]}}, "nothing would be probed on mnist"),
        ({"probe": {"baselines": False, "statistics": True}}, "leave baselines at true"),
        ({"probe": {"baselines": "student"}}, "baselines"),
        ({"probe": {"curvature": {"vectors": 1}}}, "set vectors to 2 or more, or to 0"),
        ({"probe": {"curvature": {"vectors": 0, "eigenvalues": 0}}}, "nothing would be measured"),
        ({"probe": {"curvature": True}}, "curvature"),
        ({"probe": {"layers": {"images": 1}}}, "layers"),
        (
            {"probe": {"layers": {}, "own": False, "also": ["mnist"]}},
            "layers are measured on test images .* own to true",
        ),
        ({"probe": {"layers": {}}, "encoder": {"name": "flatten"}}, "'flatten' has none of them: leave it out"),
        (
            {"probe": {"layers": {}}, "encoder": {"name": "my_nets:Tiny", "source": "0" * 64}},
            "'my_nets:Tiny' has none of them: leave it out",
        ),
        (
            {"probe": {"layers": {}, "also": ["mnist"]}, "data": {"name": "gaussian", "samples": 60, "size": 32}},
            "gaussian inputs have none: leave it out",
        ),
        ({**LABELS, "probe": {**NONE, "own": False}}, "nothing would be probed"),
    ],
)
def test_what_is_no_probing(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_spec(**fields)


def test_curvature_is_logged_at_every_probing_and_old_runs_keep_their_names() -> None:
    plain, asked = run_spec(), run_spec(probe={"curvature": {"eigenvalues": 1, "iterations": 7, "vectors": 4}})
    assert run_spec(probe={"curvature": None}).name == plain.name
    names = ["curvature/eigenvalue_1", "curvature/residual_1", "curvature/trace", "curvature/trace_error"]
    assert [name for name in asked.logged if name not in plain.logged] == names
    assert {asked.logged[name] for name in names} == {"probe"}
    assert asked.probe.curvature is not None
    assert asked.probe.curvature.products == 11


def test_layers_are_logged_of_each_role_and_old_runs_keep_their_names() -> None:
    plain, asked = run_spec(), run_spec(probe={"layers": {}})
    assert run_spec(probe={"layers": None}).name == plain.name != asked.name
    names = [name for name in asked.logged if name not in plain.logged]
    layers = [*(f"{number:02}" for number in (1, 2)), "embedding"]
    statistics = ("cosine", "effective_rank", "log_condition", "separability")
    of_networks = {
        f"layers/{role}/{name}_{layer}" for role in ("student", "teacher") for name in statistics for layer in layers
    }
    assert set(names) == of_networks | {f"layers/input/{name}" for name in statistics}
    assert {asked.logged[name] for name in names} == {"probe"}
    alone = run_spec(probe={"layers": {}, "baselines": False})
    assert {name.split("/")[1] for name in alone.logged if name.startswith("layers/")} == {"student"}
