"""Sweep files: expansion, overrides, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.spec.document import build
from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import MOST_RUNS
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec, load_run, load_sweep

BASE = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}


def sweep(**fields: Any) -> SweepSpec:
    return SweepSpec.model_validate({"name": "s", "base": BASE, **fields})


def test_the_grid_is_the_product_and_seeds_vary_slowest() -> None:
    points = expand(sweep(axes={"student.alpha": [0, 1], "projector.out_dim": [2, 4]}, seeds=2))
    assert [point.label for point in points] == [
        "alpha=0,out_dim=2,seed=0", "alpha=0,out_dim=4,seed=0", "alpha=1,out_dim=2,seed=0", "alpha=1,out_dim=4,seed=0",
        "alpha=0,out_dim=2,seed=1", "alpha=0,out_dim=4,seed=1", "alpha=1,out_dim=2,seed=1", "alpha=1,out_dim=4,seed=1",
    ]  # fmt: skip
    assert points[1].spec.student.alpha == 0
    assert points[1].spec.projector.out_dim == 4
    assert points[4].spec.seeds.model_dump() == {"teacher": 1, "student": 1, "data": 1, "order": None, "probe": 1}
    assert points[0].configuration == points[4].configuration


def test_zipped_fields_vary_together() -> None:
    group = {"encoder.name": ["vgg11", "resnet18"], "data.size": [32, 40]}
    points = expand(sweep(zip=[group], axes={"student.alpha": [0, 1]}))
    seen = {(point.spec.student.alpha, point.spec.encoder.name, point.spec.data.size) for point in points}
    assert seen == {(a, name, size) for a in (0, 1) for name, size in (("vgg11", 32), ("resnet18", 40))}


def test_a_zipped_field_may_have_a_value_again() -> None:
    points = expand(sweep(zip=[{"encoder.name": ["vgg11", "vgg11", "vgg13"], "data.size": [32, 40, 40]}]))
    assert [(point.spec.encoder.name, point.spec.data.size) for point in points] == [
        ("vgg11", 32), ("vgg11", 40), ("vgg13", 40),
    ]  # fmt: skip


def test_seeds_named_in_the_base_or_on_an_axis_stay() -> None:
    fixed = expand(sweep(base={**BASE, "seeds": {"teacher": 7}}, seeds=[3]))
    assert fixed[0].spec.seeds.model_dump() == {"teacher": 7, "student": 3, "data": 3, "order": None, "probe": 3}
    varied = expand(sweep(axes={"seeds.data": [5, 6]}, seeds=[3]))
    assert [point.spec.seeds.data for point in varied] == [5, 6]
    assert varied[0].spec.seeds.teacher == 3


def test_the_order_varies_on_an_axis_alone() -> None:
    points = expand(sweep(axes={"seeds.order": [0, 1, 2]}, seeds=2))
    found = [(point.spec.seeds.data, point.spec.seeds.teacher, point.spec.seeds.ordering) for point in points]
    assert found == [(seed, seed, order) for seed in (0, 1) for order in (0, 1, 2)]
    assert len({point.spec.name for point in points}) == 6
    plain = expand(sweep(seeds=2))
    assert {point.spec.name for point in plain} < {point.spec.name for point in points}
    assert points[1].label == "seeds.order=1,seed=0"


def test_equal_specs_appear_once() -> None:
    points = expand(sweep(axes={"encoder.norm": [None, "none"]}))
    assert len(points) == 1


def test_points_share_the_parts_that_do_not_vary() -> None:
    same = {"start_from": {"run": {"same_but": {"student": {"alpha": 1.0}}}}}
    one, two = expand(sweep(base={**BASE, "teacher": same}, axes={"student.alpha": [0.25, 0.5]}))
    assert one.spec.encoder is two.spec.encoder
    assert one.spec.teacher is two.spec.teacher
    assert one.spec.teacher.start_from is not None
    assert one.spec.teacher.start_from.run.encoder is one.spec.encoder


def test_equal_values_of_other_types_are_validated_apart() -> None:
    with pytest.raises(InputError) as caught:
        expand(sweep(axes={"probe.every": [1, 1.0, True]}))
    assert [f"'{given}' is not a duration" in str(caught.value) for given in ("1", "1.0", "True")] == [True] * 3


def test_what_does_not_fit_together_is_found_at_every_point() -> None:
    axes = {"kind": ["distill", "supervise"], "student.temperature": [1.0, 0.5], "objective.label_noise": [0.0, 0.25]}
    with pytest.raises(InputError) as caught:
        expand(sweep(axes=axes))
    message = str(caught.value)
    assert [message.count(words) for words in ("kind distill never uses", "leave out student.temperature")] == [1, 1]


def write(folder: Path, **fields: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "base": BASE, **fields}, sort_keys=False))
    return path


def test_a_large_grid_is_refused_at_once(tmp_path: Path) -> None:
    axes = {"student.alpha": {"linspace": [0, 1, 10**8]}, "projector.out_dim": [2, 4, 8]}
    file = write(tmp_path, axes=axes, zip=[{"encoder.name": ["vgg11", "vgg16"], "data.size": [32, 40]}], seeds=10**9)
    with pytest.raises(InputError) as caught:
        load_sweep(file)
    lengths = (
        "100,000,000 (student.alpha) x 3 (projector.out_dim) x 2 (encoder.name with data.size) x 1,000,000,000 (seeds)"
    )
    most = "At most 1,000,000 are allowed"
    for words in ("'s'", "600,000,000,000,000,000 runs", "more than 10,000", lengths, most, "--set student.alpha="):
        assert words in str(caught.value)


def test_the_limit_is_of_runs_and_can_be_moved(tmp_path: Path) -> None:
    file = write(tmp_path, axes={"student.alpha": [0, 0.5, 1]}, seeds=[4, 7])
    assert [len(load_sweep(file, limit=limit)[1]) for limit in (6, MOST_RUNS)] == [6, 6]
    assert len(load_sweep(file)[1]) == 6
    with pytest.raises(InputError, match=r"6 runs, more than 5.*say so with --yes"):
        load_sweep(file, limit=5)
    assert len(load_sweep(file, ["student.alpha=1"], limit=5)[1]) == 2


def test_all_bad_points_are_listed_at_once() -> None:
    with pytest.raises(InputError) as caught:
        expand(sweep(axes={"student.alpha": [0.5, 1.5, 2.5], "encoder.name": ["vgg11", "vgg12"]}))
    message = str(caught.value)
    for words in ("nothing was started", "1.5", "2.5", "'vgg12'"):
        assert words in message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"axes": {"student.alhpa": [1]}}, "Did you mean 'student.alpha'?"),
        ({"zip": [{"student.alpha": [0, 1], "data.size": [8]}]}, "equally many values"),
        ({"axes": {"student.alpha": [0]}, "zip": [{"student.alpha": [1]}]}, "on two axes"),
        ({"axes": {"student.alpha": [0.5, 1, 0.5]}}, "The axis student.alpha has 0.5 more than once"),
        (
            {"zip": [{"data.name": ["a", "b", "a"], "data.size": [8, 8, 8]}]},
            "The axis data.name with data.size has 'a', 8 more than once",
        ),
    ],
)
def test_bad_grids_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        expand(sweep(**fields))
    assert words in str(caught.value)


@pytest.mark.parametrize("seeds", [0, [], [1, 1], [-1]])
def test_bad_seeds_are_refused(seeds: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nbase: {{data: {{name: digits}}, encoder: {{name: vgg11}}}}\nseeds: {seeds}\n")
    with pytest.raises(InputError, match="seeds"):
        load_sweep(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: s\nbase:\n  data: {name: digits}\n  encoder: {name: convnet_32_2}\n"
        "axes:\n  student.alpha: [1e-10, 1]\nzip:\n- {projector.out_dim: [2, 4], projector.bottleneck: [2, 4]}\n"
    )
    return path


def test_set_changes_the_base(file: Path) -> None:
    _, points = load_sweep(file, ["train.epochs=3", "encoder.name=vgg11"])
    assert {(point.spec.train.epochs, point.spec.encoder.name) for point in points} == {(3, "vgg11")}


def test_set_on_an_axis_pins_it_or_gives_it_other_values(file: Path) -> None:
    _, pinned = load_sweep(file, ["student.alpha=0.5"])
    assert [point.configuration for point in pinned] == ["out_dim=2,bottleneck=2", "out_dim=4,bottleneck=4"]
    assert {point.spec.student.alpha for point in pinned} == {0.5}
    _, listed = load_sweep(file, ["student.alpha=[0.1, 0.2, 0.3]"])
    assert {point.spec.student.alpha for point in listed} == {0.1, 0.2, 0.3}
    with pytest.raises(InputError, match="zipped"):
        load_sweep(file, ["projector.out_dim=8"])


def test_launch_is_no_part_of_a_spec(file: Path) -> None:
    _, before = load_sweep(file)
    file.write_text(file.read_text() + "launch: {cpus: 2}\n")
    sweep_spec, after = load_sweep(file)
    assert sweep_spec.launch.cpus == 2
    assert [point.spec.name for point in before] == [point.spec.name for point in after]


def test_launch_names_a_reader() -> None:
    assert sweep().launch.loader == "auto"
    assert sweep(launch={"loader": "map"}).launch.loader == "map"
    with pytest.raises(ValueError, match="loader"):
        sweep(launch={"loader": "fcv"})


def test_spec_and_sweep_files_are_told_apart(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rt-scale sweep"):
        load_run(file)
    single = tmp_path / "one.yaml"
    single.write_text("data: {name: digits}\nencoder: {name: convnet_32_2}\n")
    with pytest.raises(InputError, match="rt-scale run"):
        load_sweep(single)
    assert load_run(single, ["student.alpha=1e-3"]).student.alpha == 1e-3


def test_the_experiment_is_known_and_decides_no_run(tmp_path: Path) -> None:
    text = "name: s\nbase: {data: {name: digits}, encoder: {name: convnet_8_2}}\n"
    path = tmp_path / "s.yaml"
    path.write_text(text)
    plain, (without,) = load_sweep(path)
    path.write_text(text + "experiment: fig4_steps\n")
    named, (run,) = load_sweep(path)
    assert (plain.experiment, named.experiment) == (None, "fig4_steps")
    assert run.spec.name == without.spec.name
    path.write_text(text + "experiment: fig4_step\n")
    with pytest.raises(InputError, match=r"experiment: 'fig4_step' is not known; did you mean 'fig4_steps'.*tab5"):
        load_sweep(path)


def test_set_name_is_the_sweeps_name(file: Path) -> None:
    spec, points = load_sweep(file, ["name=other"])
    assert (spec.name, [point.spec for point in points]) == ("other", [point.spec for point in load_sweep(file)[1]])
    with pytest.raises(InputError, match="name"):
        load_sweep(file, ["name=a/b"])


def test_set_seeds_is_how_many_a_mapping_is_a_runs_own(file: Path) -> None:
    spec, points = load_sweep(file, ["seeds=3"])
    assert spec.seeds == 3
    assert sorted({point.spec.seeds.student for point in points}) == [0, 1, 2]
    assert load_sweep(file, ["seeds=[4, 7]"])[0].seeds == [4, 7]
    _, points = load_sweep(file, ["seeds={teacher: 5}"])
    assert {point.spec.seeds.teacher for point in points} == {5}
    with pytest.raises(InputError, match="seeds must be"):
        load_sweep(file, ["seeds=0"])


@pytest.mark.parametrize(
    "name",
    ["", "n" * 101, "a/b", "../a", ".a", "-a", "a b", "a\x07b", "a\n", "\u00e4", "a:b", 7, 1e3, None, True, ["a"]],
)
def test_a_sweep_is_called_what_a_folder_can_be(name: Any) -> None:
    with pytest.raises(InputError) as caught:
        build(SweepSpec, {"name": name, "base": BASE}, "s.yaml")
    assert "name: " in str(caught.value)
    assert ("100 characters" in str(caught.value)) is isinstance(name, str)
    assert "\n" not in str(caught.value)
    assert SweepSpec.model_validate({"name": "n" * 100, "base": BASE}).name == "n" * 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("axes: [1]", "axes: a mapping is expected, but [1] was given"),
        ("axes: 5", "axes: a mapping is expected"),
        ("axes: {student.epsilon: 5}", "a list is expected"),
        ("zip: 5", "zip: a list is expected, but 5 was given"),
        ("zip: {student.alpha: [1]}", "zip: a list is expected"),
        ("zip: [5]", "zip.0: a mapping is expected"),
        ("explore: [1]", "explore: a mapping is expected"),
        ("explore: {space: 5}", "explore.space: a mapping is expected"),
        ("base: [1]", "base: a mapping is expected"),
        ("base: null", "base: a mapping is expected, but null was given"),
    ],
)
def test_a_section_of_another_kind_is_refused_with_set_and_without(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.yaml"
    base = "" if text.startswith("base") else "base: {data: {name: digits}, encoder: {name: vgg11}}\n"
    path.write_text(f"name: s\n{base}{text}\n")
    for overrides in ([], ["student.alpha=1"]):
        with pytest.raises(InputError) as caught:
            load_sweep(path, overrides)
        assert words in str(caught.value)


def test_a_base_may_be_shared_by_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nbase:\n  data: &data {name: digits, size: 32}\n  encoder: {name: convnet_32_2}\n"
        "  teacher: {start_from: {run: {same_but: {data: {<<: *data, size: 16}}}}}\n"
    )
    start = {"start_from": {"run": {"same_but": {"data": {"name": "digits", "size": 16}}}}}
    same = expand(sweep(base={**BASE, "data": {"name": "digits", "size": 32}, "teacher": start}))
    assert [point.spec.hash for point in load_sweep(path)[1]] == [point.spec.hash for point in same]


@pytest.mark.parametrize("levels", [40, 1500])
def test_fields_that_are_too_deep_are_refused(levels: int) -> None:
    key = "teacher.start_from.run." * levels + "probe.knn"
    with pytest.raises(InputError, match=f"{3 * levels + 1} levels deep"):
        expand(sweep(axes={key: [1]}))
