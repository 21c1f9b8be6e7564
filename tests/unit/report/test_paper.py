"""The paper's experiments and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest

from rt_scale.report.paper import EXPERIMENTS, groups, judge_all
from rt_scale.report.paper_numbers import data_title, data_words, number_of
from rt_scale.report.results import ProbedRun, Scores, configuration, count_states, probed_runs, with_first_rounds
from rt_scale.spec.sweep import Experiment

Make = Callable[..., Any]


def test_every_experiment_that_a_sweep_may_name_is_there() -> None:
    assert set(EXPERIMENTS) == set(get_args(Experiment))
    for name, experiment in EXPERIMENTS.items():
        assert experiment.figures or all(statement.analysis for statement in experiment.statements), name
        for statement in experiment.statements:
            rule = inspect.getdoc(statement.rule) or ""
            assert (
                "limit" in rule and any(bound in rule for bound in ("0", "2.5", "1 point", "2"))
            ) or "As :func:" in rule, statement.text


@pytest.mark.parametrize(
    ("experiment", "changes", "expected"),
    [
        ("fig1", {}, (46.02, 35.50, 39.02, "table 1")),
        ("fig1", {"probe": "knn", "encoder": "vgg11"}, (51.32, 44.92, 33.61, "table 3")),
        ("fig1", {"data": "tiny_imagenet", "probed": "tiny_imagenet"}, (10.40, 4.85, 3.28, "table 1")),
        ("tab2", {"data": "tiny_imagenet", "probed": "stl10"}, (41.42, 24.24, None, "table 2")),
        ("tab5", {"encoder": "resnet56"}, (27.92, 14.05, None, "table 5")),
        ("teachers", {"encoder": "vit_base_shared"}, (None, 41.71, 39.02, "table 5")),
        ("teachers", {"probe": "knn"}, (None, 37.65, 33.61, "table 3")),
        ("fig3", {"alpha": 1e-10}, (46.02, 35.50, 39.02, "table 1 (the default run)")),
        ("fig10", {"outputs": 65536}, (46.02, 35.50, 39.02, "table 1 (the default run)")),
        ("fig4_steps", {"data": "cifar5m", "samples": 5000, "encoder": "vgg11"}, (47.66, None, None, "figure 4")),
        ("fig4_epochs", {"data": "gaussian", "samples": 500, "encoder": "vgg11"}, (16.47, None, None, "figure 4")),
    ],
)
def test_numbers_are_found_by_what_was_done(experiment: str, changes: dict[str, Any], expected: Any) -> None:
    at = {"data": "cifar10", "probed": "cifar10", "probe": "linear", "encoder": "resnet18", **changes}
    number = number_of(experiment, at)
    assert number is not None
    assert (number.student, number.teacher, number.input) == expected[:3]
    assert number.source.startswith(expected[3])
    assert not number.other_data


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        ("fig1", {"data": "digits", "probed": "digits"}),
        ("fig1", {"data": "tiny_imagenet"}),
        ("fig1", {"probe": "knn_standardized"}),
        ("fig3", {"alpha": 0.5}),
        ("fig10", {"outputs": 256}),
        ("fig18", {"round": 2}),
        ("fig11", {"norm": "none"}),
        ("teachers", {"probe": "knn", "encoder": "vgg13"}),
    ],
)
def test_what_the_paper_does_not_print_is_not_made_up(experiment: str, changes: dict[str, Any]) -> None:
    at = {"data": "cifar10", "probed": "cifar10", "probe": "linear", "encoder": "resnet18", **changes}
    assert number_of(experiment, at) is None


def test_a_variant_is_never_called_by_the_name_of_the_set() -> None:
    assert data_title("cifar10_jpeg", "cifar10_jpeg") == data_title("cifar10_jpeg") == "CIFAR-10 (re-encoded as JPEG)"
    titles = [data_title(name) for name in ("cifar10", "gaussian", "mine", "digits")]
    assert titles == ["CIFAR-10", "Gaussian noise", "mine", "Digits"]
    assert data_title("mine", "My images") == "My images"
    at = {"data": "cifar10_jpeg", "probed": "cifar10_jpeg", "probe": "linear", "encoder": "vgg11"}
    number = number_of("fig1", at)
    assert number is not None
    assert (number.student, number.other_data) == (51.98, True)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([("cifar10_jpeg", "cifar10_jpeg")] * 2, "CIFAR-10 (re-encoded as JPEG)"),
        ([("digits", "cifar10_jpeg")], "distilled on Digits, probed on CIFAR-10 (re-encoded as JPEG)"),
        ([("digits", "mnist"), ("digits", "stl10")], "distilled on Digits"),
        ([("digits", "stl10"), ("mnist", "stl10")], "probed on STL-10"),
        ([("digits", "digits"), ("mnist", "mnist")], ""),
    ],
)
def test_the_data_sets_that_runs_have_in_common(places: list[tuple[str, str]], words: str) -> None:
    assert data_words(places) == words


def run(seed: int, **at: Any) -> ProbedRun:
    return ProbedRun(f"run-{at}-{seed}", seed, {"data": "d", "probed": "d", "probe": "linear", **at}, None,
                   Scores(0.2, 0.3, 0.4 + seed / 1000, 0.5))  # fmt: skip


def test_groups_differ_in_what_a_claim_is_about_alone() -> None:
    runs = [run(seed, alpha=alpha, encoder=encoder, lr=lr)
            for seed in (0, 1) for alpha in (0.1, 1.0) for encoder, lr in (("a", 1), ("b", 2))]  # fmt: skip
    found = groups(runs, ("alpha",))
    assert [shared["encoder"] for shared, _ in found] == ["a", "b"]
    assert all(len(members) == 4 for _, members in found)
    # The rate goes with the encoder: of a claim about encoders it makes no groups.
    found = groups(runs, ("encoder",))
    assert [(shared["alpha"], "lr" in shared) for shared, _ in found] == [(0.1, False), (1.0, False)]


def test_what_varies_besides_makes_groups_of_its_own() -> None:
    runs = [run(0, encoder=encoder, lr=lr) for encoder in ("a", "b") for lr in (1, 2)]
    assert [shared["lr"] for shared, _ in groups(runs, ("encoder",))] == [1, 2]
    assert len(groups(runs, ())) == 4


def test_verdicts_say_where_and_what_they_do_not_rest_on() -> None:
    runs = [run(seed, encoder=encoder, width=width) for seed in range(3) for encoder, width in (("a", 1), ("b", 2))]
    absent = ProbedRun("absent", 3, runs[0].at, state="failed")
    found = judge_all(EXPERIMENTS["fig1"], [*runs, absent])
    assert [each.where for each in found] == ["encoder a, d, linear probe", "encoder b, d, linear probe"] * 2
    assert {each.verdict.word for each in found} == {"holds"}
    assert ["; runs without a result: 1 failed" in each.verdict.why for each in found] == [True, False] * 2
    assert found[0].runs == (*(each.run for each in runs[::2]), "absent")
    assert found[0].rule.startswith("Holds where the lower limit of student - own teacher")
    assert count_states(each.state for each in [absent, *runs]) == {"done": 6, "failed": 1}


def test_a_claim_about_other_data_sets_is_judged_on_those() -> None:
    runs = [run(seed, probed=probed) for seed in range(3) for probed in ("d", "e")]
    (transfer,) = judge_all(EXPERIMENTS["tab2"], runs)
    assert transfer.where == "distilled on d, probed on e, linear probe"
    assert {each.where for each in judge_all(EXPERIMENTS["fig1"], runs)} == {"d, linear probe"}


def test_what_was_done_is_read_from_the_spec_and_the_axes(point: Make) -> None:
    place = point({"student.alpha": 0.5, "train.epochs": 3, "projector.out_dim": 64, "probe.also": ["mnist"]}, 4)
    at = configuration(place, "knn@mnist")
    assert (at["data"], at["probed"], at["probe"], at["alpha"], at["outputs"]) == ("digits", "mnist", "knn", 0.5, 64)
    assert (at["round"], at["train.epochs"], at["norm"], "student.alpha" in at) == (
        1,
        3,
        place.spec.encoder.norm,
        False,
    )
    assert at["teacher"] == "frozen"
    moving = point({"teacher.update": "ema", "teacher.momentum": 0.9})
    assert configuration(moving, "linear")["teacher"] == "average, 0.9"
    assert "linear" in place.spec.probes
    assert "knn@mnist" in place.spec.probes
    assert "knn@cifar10" not in place.spec.probes
    assert "ridge" not in place.spec.probes


def test_runs_without_a_result_have_no_scores(point: Make, result: Make) -> None:
    places = [point({"student.alpha": 0.5}, seed) for seed in (0, 1)]
    name = places[0].spec.name
    states = {name: "done", places[1].spec.name: "partial"}
    finished, absent = probed_runs(places, {name: result(0.4, 0.3, 0.6, 0.5)}, states, "linear",
                                   {name: {"probe/student/linear": [(0, 0.3), (2, 0.4)]}})  # fmt: skip
    assert finished.scores == Scores(0.6, 0.3, 0.4, 0.5, [(0, 0.3), (2, 0.4)], None)
    assert (absent.scores, absent.seed, absent.run, absent.state) == (None, 1, places[1].spec.name, "partial")
    assert probed_runs(places, {}, states, "linear@mnist") == []


def test_the_first_round_is_found_behind_the_second(point: Make) -> None:
    first = point({}, 2)
    second = point({"teacher.start_from": {"run": first.spec.model_dump(mode="json"), "take": "student"}}, 2)
    assert configuration(second, "linear")["round"] == 2
    found = with_first_rounds([second])
    assert [each.spec.name for each in found] == [second.spec.name, first.spec.name]
    assert (found[1].seed, dict(found[1].values)) == (2, {})
    assert with_first_rounds([first, second]) == [first, second]
    assert probed_runs([second], {}, {second.spec.name: "missing"}, "linear")[0].start == first.spec.name
