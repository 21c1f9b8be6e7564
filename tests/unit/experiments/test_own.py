"""Runs with plugins: from the user's file to a result, the same again and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale import plugins
from rt_scale.data.prepared import known_data, load
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.plan.estimate import Estimator, measured_runs
from rt_scale.report.results import plugin_table
from rt_scale.scheduler.comparison import board_metrics
from rt_scale.scheduler.job import Job
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec, stream
from rt_scale.spec.stopping import Stopped
from rt_scale.spec.sweep import LaunchSpec, load_run
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import changed_plugins, single_runs
from tests.plugins import Write, write
from tests.unit.experiments.conftest import TINY

__all__ = ["write"]

Make = Callable[..., Options]
NETS = """
from torch import nn
class Tiny(nn.Sequential):
    def __init__(self, channels, width=4, dropout=0.5):
        super().__init__(nn.Conv2d(channels, width, 3, 2), nn.ReLU(), nn.Dropout(dropout), nn.Flatten())
def cosine(student, teacher, power=1):
    return (1 - nn.functional.cosine_similarity(student, teacher, dim=1)).pow(power).mean()
def spread(train, labels, test, test_labels, *, classes, seed, scale=1.0):
    import torch
    return {"width": scale * train.shape[1], "draw": torch.rand(()).item(), "seed": seed % 97, "classes": classes}
def count(train, labels, test, test_labels, *, classes, seed):
    return len(test)
def words(train, labels, test, test_labels, *, classes, seed):
    return "many"
def images(number=40, test=20):
    import numpy as np
    generator = np.random.default_rng(0)
    made = [(generator.integers(0, 256, (n, 8, 8), np.uint8), np.arange(n) % 2) for n in (number, test)]
    return *made[0], *made[1]
class Mean(nn.Sequential):
    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
class Entropy(nn.Flatten):
    def __init__(self):
        import numpy as np, torch
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(np.random.default_rng().random()))
def rows(student, teacher):
    return (student - teacher).square().sum(1)
"""


@pytest.fixture
def read(tmp_path: Path, write: Write) -> Callable[..., RunSpec]:
    """Reads a spec file of the tiny run beside a module of the user's."""
    write("mine_run.py", NETS)

    def make(*overrides: str, **parts: Any) -> RunSpec:
        (tmp_path / "spec.yaml").write_text(json.dumps({**TINY, **parts}))
        return load_run(tmp_path / "spec.yaml", list(overrides))

    return make


Read = Callable[..., RunSpec]
ENCODER = {"name": "mine_run:Tiny"}


def test_a_spec_names_plugins_by_reference_and_source(read: Read) -> None:
    sha256 = plugins.find_source("mine_run:Tiny").sha256
    whole = read(encoder={"name": "mine_run:Tiny", "args": {"width": 8}})
    assert (whole.encoder.name, whole.encoder.source, whole.encoder.args) == ("mine_run:Tiny", sha256, {"width": 8})
    assert whole.plugins == {"mine_run:Tiny": sha256}
    short = read("encoder.name=Tiny", "encoder.args.width=8", 'import=["mine_run"]')
    assert short == whole
    assert read(encoder={"name": "Tiny", "args": {"width": 8}}, **{"import": "mine_run"}) == whole
    assert read(encoder=ENCODER).name != whole.name
    start = read(encoder=ENCODER, teacher={"start_from": {"run": "same"}}).teacher.start_from
    assert start is not None
    assert start.run.encoder.source == sha256
    assert RunSpec.model_validate(whole.model_dump()) == whole  # a stored spec needs no plugin
    Path("mine_run.py").write_text(NETS + "#")
    assert read(encoder={"name": "mine_run:Tiny", "args": {"width": 8}}).name != whole.name


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"name": "mine_run:Tiny", "norm": "batch"}, "norm, width, attention and init"),
        ({"name": "vgg11", "args": {"a": 1}}, "args and source belong to plugins"),
        ({"name": "mine_run:Tny"}, "Did you mean 'Tiny'"),
        ({"name": "mine_gone:Tiny"}, "no module 'mine_gone'"),
    ],
)
def test_what_is_wrong_is_said_while_reading(read: Read, encoder: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(encoder=encoder)


def test_a_plugin_without_its_source_is_refused() -> None:
    with pytest.raises(ValueError, match="its source is missing"):
        RunSpec.model_validate({**TINY, "encoder": ENCODER})


def test_a_run_of_it_is_the_same_again_and_resumed(read: Read, settings: Make, tmp_path: Path) -> None:
    spec = read(encoder=ENCODER, objective={"name": "mine_run:cosine"})
    result = run(spec, settings())
    sources = json.loads((tmp_path / "store" / "runs" / spec.name / "sources.json").read_text())
    assert {name: each["text"] for name, each in sources.items()} == dict.fromkeys(
        ["mine_run:Tiny", "mine_run:cosine"], NETS
    )
    again = run(spec, settings(store=Store(tmp_path / "again")))
    assert again.last == result.last
    stops = iter([False] * 3 + [True] * 100)
    with pytest.raises(Stopped):
        run(spec, settings(store=Store(tmp_path / "resumed"), stop=lambda: next(stops)))
    resumed = run(spec, settings(store=Store(tmp_path / "resumed")))
    assert resumed.attempts == 2
    assert resumed.last == result.last


def test_its_dropout_counts(read: Read, settings: Make) -> None:
    with_dropout, without = (
        run(read(encoder={**ENCODER, "args": {"dropout": share}}), settings()).last["train/loss"] for share in (0.5, 0)
    )
    assert with_dropout != without


def test_an_objective_is_what_training_minimises(read: Read, settings: Make) -> None:
    one, square = (
        run(read(objective={"name": "mine_run:cosine", "args": {"power": power}}), settings()).last for power in (1, 2)
    )
    assert 0 < square["train/loss"] < one["train/loss"] < 2
    assert one["train/kl"] > 0


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"encoder": {**ENCODER, "args": {"wdith": 1}}}, "did you mean 'width'"),
        (
            {
                "encoder": ENCODER,
                "augment": {"kind": "multicrop", "global_size": 8, "local_size": 4},
                "objective": {"pairing": "all"},
            },
            "gives 36 numbers for images of 8 x 8 pixels, and 4 for 4 x 4",
        ),
        ({"encoder": {"name": "mine_run:Entropy"}}, "draws scale anew at every call"),
        ({"objective": {"name": "mine_run:rows"}}, r"gives \[2\] for logits"),
        ({"objective": {"name": "mine_run:cosine", "args": {"student": 1}}}, "takes no argument 'student'"),
        ({"objective": {"name": "mine_run:Tiny"}}, "cannot be called|cannot be used"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    read: Read, settings: Make, tmp_path: Path, parts: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run(read(**parts), settings())
    assert not (tmp_path / "store" / "runs").exists()


def test_a_source_that_changed_is_refused(read: Read, settings: Make) -> None:
    spec = read(encoder=ENCODER)
    Path("mine_run.py").write_text(NETS + "#")
    with pytest.raises(InputError, match="is another here than the spec names"):
        run(spec, settings())


def test_its_probes_measure_every_network(read: Read, settings: Make) -> None:
    probe = {**TINY["probe"], "extra": [{"name": "mine_run:spread", "args": {"scale": 2}}, {"name": "mine_run:count"}]}
    spec = read(probe=probe, seeds={"probe": 3})
    last = run(spec, settings()).last
    found = {name: value for name, value in last.items() if name.startswith("extra/")}
    parts = ("spread_width", "spread_draw", "spread_seed", "spread_classes", "count")
    assert set(found) == {f"extra/{role}/{part}" for role in ("input", "teacher", "student") for part in parts}
    assert found["extra/input/spread_width"] == 2 * 64
    assert found["extra/student/count"] > 60
    assert found["extra/student/spread_seed"] == stream("probe", 3) % 97
    assert found["extra/student/spread_draw"] == found["extra/teacher/spread_draw"]
    assert found["extra/student/spread_classes"] == 10
    assert spec.logged["extra/student/count"] == "probe"


def test_a_probe_that_gives_no_number_ends_the_run(read: Read, settings: Make) -> None:
    with pytest.raises(RunError, match="gives 'many': it must give a number"):
        run(read(probe={**TINY["probe"], "extra": [{"name": "mine_run:words"}]}), settings())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([{"name": "mine_run:spread", "args": {"seed": 1}}], "gives it itself"),
        ([{"name": "mine_run:spread", "args": {"sclae": 1}}], "did you mean 'scale'"),
    ],
)
def test_a_probes_arguments_are_checked_before(read: Read, settings: Make, extra: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(read(probe={**TINY["probe"], "extra": extra}), settings())


def test_its_images_are_prepared_by_the_run(read: Read, settings: Make, tmp_path: Path) -> None:
    data = {"name": "mine_run:images", "args": {"number": 64}}
    spec = read(data=data)
    given = settings(data_dir=tmp_path / "data")
    assert known_data([spec], given.data_dir).missing == {}
    result = run(spec, given)
    assert result.data.name == spec.data.name
    assert (spec.data.name.partition("-")[0], spec.data.reader) == ("images", "mine_run:images")
    prepared = load(spec.data.name, given.data_dir)
    assert prepared is not None
    assert (prepared.info.title, prepared.info.train, prepared.info.classes) == ("images", 64, ("0", "1"))
    assert read(data={**data, "args": {"number": 65}}).data.name != spec.data.name
    Path("mine_run.py").unlink()  # prepared, it needs its plugin no more, but a new run records its source
    assert run(spec, given) == result


def test_a_run_of_another_source_is_told(read: Read, settings: Make) -> None:
    given, parts = settings(), {"encoder": ENCODER, "data": {"name": "mine_run:images"}}
    before = read(**parts)
    run(before, given)
    assert changed_plugins(single_runs([before], given.store)) == ""
    assert changed_plugins(single_runs([read(**parts, student={"alpha": 0.25})], given.store)) == ""
    Path("mine_run.py").write_text(NETS + "#")
    now = read(**parts)
    told = changed_plugins(single_runs([now], given.store))
    assert told.startswith(f"{before.name} is this run with another source of mine_run:images or mine_run:Tiny")
    assert now.name in told


def test_a_plan_knows_finished_runs_alone(read: Read, settings: Make, tmp_path: Path) -> None:
    given = settings()
    one, longer = read(encoder=ENCODER), read("train.epochs=4", encoder=ENCODER)
    known = known_data([one], given.data_dir)
    jobs = [Job(spec.name, spec, LaunchSpec()) for spec in (one, longer)]
    unknown = Estimator({}, known).estimate(jobs[0])
    assert unknown.seconds is None
    assert "a plan does not run the plugin mine_run:Tiny" in unknown.how
    seconds = run(one, given).seconds
    measured = measured_runs(given.store, {one.shape})
    first, second = (Estimator(measured, known).estimate(job) for job in jobs)
    assert first.seconds == seconds
    assert second.seconds == pytest.approx(2 * seconds)
    assert "of another length, scaled" in second.how
    several = Estimator(measured, known).estimate(Job("several", one, LaunchSpec(workers=2)))
    assert several.seconds is None


def test_numbers_of_its_probes_are_in_report_and_board(read: Read) -> None:
    extra = {"probe": {**TINY["probe"], "extra": [{"name": "mine_run:count"}]}}
    specs = [read(f"seeds.data={seed}", **extra) for seed in (0, 1)]
    points = [Point({}, seed, spec) for seed, spec in enumerate(specs)]

    def result(value: float) -> RunResult:
        last = {f"extra/{role}/count": value for role in ("input", "teacher")} | {"extra@mnist/student/count_x": 3.0}
        return RunResult.model_construct(last=last)

    results = {spec.name: result(value) for spec, value in zip(specs, (1.0, 2.0), strict=True)}
    assert plugin_table(points, results) == [
        ["probe", "runs", "input", "teacher", "student"],
        ["count", "2", "1.5 ± 0.71", "1.5 ± 0.71", "-"],
        ["count_x on mnist", "2", "-", "-", "3 ± 0"],
    ]
    assert plugin_table(points, {}) == []
    shown = board_metrics(points)
    assert [name for name in shown if name.startswith("extra/")] == [
        f"extra/{role}/count" for role in ("student", "teacher", "input")
    ]


def test_a_plugin_that_is_missing_where_it_runs_is_refused(read: Read, settings: Make, tmp_path: Path) -> None:
    spec = read(encoder=ENCODER)
    Path("mine_run.py").unlink()
    with pytest.raises(InputError, match="no module 'mine_run'"):
        run(RunSpec.model_validate_json(spec.model_dump_json()), settings())
    assert not (tmp_path / "store" / "runs").exists()


def test_a_plugin_may_change_its_arguments(read: Read) -> None:
    spec = read(encoder={**ENCODER, "args": {"width": [1, 2]}})
    spec.encoder.arguments["width"].append(3)
    assert spec.encoder.arguments == {"width": [1, 2]}


def test_views_of_an_encoder_that_takes_all_sizes(read: Read, settings: Make) -> None:
    views = {"kind": "multicrop", "global_size": 8, "local_size": 4, "local_views": 2}
    spec = read(
        encoder={"name": "mine_run:Mean"}, augment=views, objective={"name": "mine_run:cosine", "pairing": "opposite"}
    )
    assert 0 < run(spec, settings()).last["train/loss"] < 2
