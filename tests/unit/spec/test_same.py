"""`same` and `same_but`: another run said by what it has in common with this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.document import resolve_same
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import expand
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec, load_run, load_sweep

SMALL: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_32_2"},
    "student": {"alpha": 0.5, "temperature": 0.1},
    "teacher": {"center": 0.9},
}
SEEDS = ("teacher", "student", "data", "probe")


def starting(start: Any, role: str = "teacher") -> dict[str, Any]:
    part = {key: value for key, value in SMALL[role].items() if key != "alpha"}
    return {**SMALL, role: {**part, "start_from": start}}


def other_run(document: dict[str, Any], role: str = "teacher", seed: int | None = None) -> Any:
    return resolve_same(document, seed)[role]["start_from"]["run"]


def test_same_is_this_run_without_any_start() -> None:
    assert other_run(starting({"run": "same"})) == SMALL
    both = starting({"run": "same"}) | {"student": {"temperature": 0.1, "start_from": {"run": "same", "take": "init"}}}
    for role in ("teacher", "student"):
        assert other_run(both, role) == {**SMALL, "student": {"temperature": 0.1}}


def test_same_but_is_that_with_fields_changed_part_by_part() -> None:
    changes = {"student": {"alpha": 1.0}, "encoder": {"norm": "batch"}, "kind": "supervise", "data": {"name": "mnist"}}
    assert other_run(starting({"run": {"same_but": changes}})) == {
        **SMALL,
        "kind": "supervise",
        "data": {"name": "mnist"},
        "encoder": {"name": "convnet_32_2", "norm": "batch"},
        "student": {"alpha": 1.0, "temperature": 0.1},
    }
    assert other_run(starting({"run": {"same_but": {}}})) == SMALL


def test_a_list_replaces_a_list_and_null_a_part() -> None:
    document = starting({"run": {"same_but": {"projector": {"hidden": [8]}, "student": None}}})
    document["projector"] = {"hidden": [4, 4], "bottleneck": 2}
    assert other_run(document)["projector"] == {"hidden": [8], "bottleneck": 2}
    assert other_run(document)["student"] is None


def test_the_given_document_stays_as_it_is() -> None:
    document = starting({"run": {"same_but": {"student": {"alpha": 1.0}}}})
    before = repr(document)
    resolve_same(document, 3)
    assert repr(document) == before


def test_the_restart_experiment_three_rounds_deep() -> None:
    inner = {"same_but": {"teacher": {"start_from": {"run": {"same_but": {"student": {"alpha": 1.0}}}}}}}
    spec = RunSpec.model_validate(resolve_same(starting({"run": inner}), 4))
    runs = [spec]
    while runs[-1].starts:
        runs.append(runs[-1].starts[0].run)
    assert [run.student.alpha for run in runs] == [0.5, 0.5, 1.0]
    assert [run.seeds.data for run in runs] == [4, 4, 4]
    assert [run.teacher.center for run in runs] == [0.9, 0.9, 0.9]
    assert len({run.name for run in runs}) == 3


@pytest.mark.parametrize("run", ["same", {"same_but": {"train": {"epochs": 3}}}, {**SMALL, "train": {"epochs": 3}}])
def test_a_seed_fills_what_every_run_leaves_open(run: Any) -> None:
    document = starting({"run": run})
    assert resolve_same(document, 5)["seeds"] == other_run(document, seed=5)["seeds"] == dict.fromkeys(SEEDS, 5)
    assert "seeds" not in resolve_same(document)
    assert "seeds" not in other_run(document)


def test_seeds_that_are_named_stay() -> None:
    fixed = starting({"run": {"same_but": {"seeds": {"data": 9}}}}) | {"seeds": {"teacher": 7}}
    assert resolve_same(fixed, 5)["seeds"] == {"teacher": 7, "student": 5, "data": 5, "probe": 5}
    assert other_run(fixed, seed=5)["seeds"] == {"teacher": 7, "student": 5, "data": 9, "probe": 5}
    whole = starting({"run": {**SMALL, "seeds": {"probe": 1}}}) | {"seeds": {"teacher": 7}}
    assert other_run(whole, seed=5)["seeds"] == {"teacher": 5, "student": 5, "data": 5, "probe": 1}


def test_a_run_within_a_written_out_run_is_that_ones_same() -> None:
    middle = {**SMALL, "encoder": {"name": "convnet_16_2"}, "teacher": {"start_from": {"run": "same"}}}
    inner = other_run(starting({"run": middle}))["teacher"]["start_from"]["run"]
    assert inner == {**middle, "teacher": {}}


@pytest.mark.parametrize(
    ("run", "given"),
    [
        ("sam", "given: sam"),
        (None, "given: null"),
        (3, "given: 3"),
        (["same"], "given: ['same']"),
        ({"same_but": None}, "given: {'same_but': null}"),
        ({"same_but": {}, "seeds": {}}, "given: {'same_but': {}, 'seeds': {}}"),
    ],
)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_names_no_run_is_refused(run: Any, given: str, role: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_same(starting({"run": run}, role))
    message = str(caught.value)
    assert message.startswith(f"{role}.start_from.run must be 'same', {{same_but: {{field: value}}}} without other")
    assert given in message


@pytest.mark.parametrize("teacher", ["same", None, {"start_from": "same"}, {"start_from": {"take": "init"}}])
def test_other_mistakes_are_left_to_validation(teacher: Any) -> None:
    assert resolve_same({**SMALL, "teacher": teacher, "seeds": 3}, 1) == {**SMALL, "teacher": teacher, "seeds": 3}


def sweep(base: dict[str, Any], **fields: Any) -> SweepSpec:
    return SweepSpec.model_validate({"name": "s", "base": base, **fields})


def test_axes_within_another_run() -> None:
    axes = {
        "teacher.start_from.run.same_but.student.alpha": [0.25, 1.0],
        "teacher.start_from.take": ["student", "init"],
        "student.alpha": [0.0],
    }
    points = expand(sweep(SMALL, axes=axes, seeds=2))
    seen = [
        (start.run.student.alpha, start.take, point.spec.student.alpha, start.run.seeds.teacher)
        for point in points
        for start in point.spec.starts
    ]
    assert seen == [(a, take, 0.0, seed) for seed in (0, 1) for a in (0.25, 1.0) for take in ("student", "init")]
    assert len({start.run.name for point in points for start in point.spec.starts}) == 4


def test_what_varies_on_an_axis_varies_in_the_other_run_too() -> None:
    points = expand(sweep(starting({"run": "same"}), axes={"encoder.width": [0.5, 1.0]}))
    assert [point.spec.starts[0].run.encoder.width for point in points] == [0.5, 1.0]


def test_an_axis_of_starts() -> None:
    starts = [None, {"run": "same"}, {"run": {"same_but": {"student": {"alpha": 1.0}}}, "part": "encoder"}]
    points = expand(sweep(SMALL, axes={"teacher.start_from": starts}))
    assert [[start.run.student.alpha for start in point.spec.starts] for point in points] == [[], [0.5], [1.0]]


def test_an_axis_of_other_runs() -> None:
    runs = ["same", {"same_but": {"student": {"alpha": 1.0}}}, {**SMALL, "student": {"alpha": 0.25}}]
    points = expand(sweep(SMALL, axes={"teacher.start_from.run": runs}))
    assert [point.spec.starts[0].run.student.alpha for point in points] == [0.5, 1.0, 0.25]
    assert len({point.label for point in points}) == 3


def test_wrong_runs_are_told_with_all_that_is_wrong_in_a_grid() -> None:
    axes = {"teacher.start_from.run": ["smae", 3, "same"], "student.alpha": [0.5, 1.5]}
    with pytest.raises(InputError) as caught:
        expand(sweep(SMALL, axes=axes))
    message = str(caught.value)
    assert "nothing was started" in message
    assert [message.count(words) for words in ("given: smae.", "given: 3.")] == [1, 1]
    assert "student.alpha: input should be less than or equal to 1, but 1.5 was given" in message


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("teacher.start_from.takes", "Did you mean 'teacher.start_from.take'?"),
        ("teacher.start_from.run.same_but.student.alhpa", "Did you mean 'student.alpha'?"),
        ("teacher.start_from.run.same_but.teacher.start_from.parts", "Did you mean 'teacher.start_from.part'?"),
        ("teacher.start_from.run.studnt.alpha", "Unknown field of an axis 'studnt.alpha'"),
        ("encoder.start_from.take", "Unknown field of an axis 'encoder.start_from.take'"),
    ],
)
def test_axes_that_name_no_field_of_the_other_run(axis: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        expand(sweep(SMALL, axes={axis: [1]}))
    assert words in str(caught.value)


def test_in_files_and_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "restart.yaml"
    path.write_text(
        "data: {name: digits}\nencoder: {name: convnet_32_2}\nstudent: {alpha: 0}\n"
        "teacher: {start_from: {run: {same_but: {student: {alpha: 1}}}}}\n"
    )
    spec = load_run(path)
    assert (spec.student.alpha, spec.starts[0].run.student.alpha) == (0, 1)
    changed = load_run(path, ["teacher.start_from.run.same_but.student.alpha=0.5", "encoder.width=2"])
    assert [(run.student.alpha, run.encoder.width) for run in (changed, changed.starts[0].run)] == [(0, 2), (0.5, 2)]
    grid = tmp_path / "grid.yaml"
    grid.write_text("name: s\nbase:\n" + "".join(f"  {line}\n" for line in path.read_text().splitlines()))
    (point,) = load_sweep(grid, ["teacher.start_from.take=init"])[1]
    assert point.spec.starts[0].take == "init"
