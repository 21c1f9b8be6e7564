"""Runs of kind connect: what they measure, their files, what they refuse, and that they resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rt_scale.analyses.classifier import Classifiers
from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.data.prepared import KnownData
from rt_scale.experiments.base import check
from rt_scale.experiments.connect import Connect, image_counts
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.experiments.connect import ConnectSpec
from rt_scale.spec.run import RunSpec, stream
from rt_scale.spec.stopping import Stopped
from rt_scale.store.metrics import read_metrics
from tests.unit.experiments.conftest import TINY, Seen

Make = Callable[..., Options]
END: dict[str, Any] = {
    **TINY,
    "kind": "supervise",
    "data": {"name": "digits", "samples": 300},
    "encoder": {"name": "convnet_4_1", "norm": "batch"},
    "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "init": "torch", "out_dim": 10},
    "student": {"alpha": 1.0},
    "train": {"epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
    "probe": {"every": None, "knn": 0, "epochs": 1, "standardized": False},
}


def connect(run: dict[str, Any] | None = None, values: tuple[int, ...] = (1, 2, 3), **fields: Any) -> ConnectSpec:
    ends = {"run": {**END, **(run or {})}, "vary": "seeds.order", "values": list(values)}
    spec = RunSpec.model_validate({"kind": "connect", "ends": ends, "points": 5, **fields})
    assert isinstance(spec, ConnectSpec)
    return spec


def tables(spec: RunSpec, options: Options) -> dict[str, list[dict[str, Any]]]:
    folder = options.store.run(spec).artifacts
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("curves", "pairs", "ends")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Any) -> tuple[ConnectSpec, Options]:
    from rt_scale.store.store import Store

    options = Options(store=Store(tmp_path_factory.mktemp("store")), data_dir=data_dir, device="cpu", threads=1)
    run(connect(), options)
    return connect(), options


def test_ends_are_the_numbers_of_their_runs(finished: tuple[ConnectSpec, Options]) -> None:
    spec, options = finished
    rows = tables(spec, options)["ends"]
    for number, end in enumerate(spec.ends):
        result = options.store.run(end.run).result()
        assert result is not None
        (row,) = (row for row in rows if (row["end"], row["split"]) == (number, "test"))
        assert row["run"] == end.run.name
        assert row["take"] == "student"
        assert row["accuracy"] == pytest.approx(result.last["test/accuracy"], abs=1e-7)
        assert row["loss"] == pytest.approx(result.last["test/loss"], rel=1e-6)
        assert row["error"] == 1 - row["accuracy"]
        assert row["loss_on_line"] != row["loss"], "with statistics estimated anew"
        assert row["loss_on_line"] == pytest.approx(row["loss"], rel=0.5)
    last = options.store.run(spec).result()
    assert last is not None
    tests = [row for row in rows if row["split"] == "test"]
    assert last.last["ends/test/accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in tests]))


def test_files_and_metrics_fit_together(finished: tuple[ConnectSpec, Options]) -> None:
    spec, options = finished
    found = tables(spec, options)
    result = options.store.run(spec).result()
    assert result is not None
    assert len(found["curves"]) == 3 * 2 * 5
    assert len(found["pairs"]) == 3 * 2 * 2
    assert set(result.last) == set(spec.logged)
    assert (result.steps, result.epochs) == (spec.steps, 3)
    for row in found["pairs"]:
        curve = [
            each for each in found["curves"]
            if all(each[key] == row[key] for key in ("first", "second", "split"))
        ]  # fmt: skip
        assert [each["position"] for each in curve] == [0.0, 0.25, 0.5, 0.75, 1.0]
        values = [each[row["measure"]] for each in curve]
        assert row["barrier"] == max(values) - (values[0] + values[-1]) / 2
        line = [values[0] * (1 - each["position"]) + values[-1] * each["position"] for each in curve]
        assert row["barrier_line"] == pytest.approx(max(v - at for v, at in zip(values, line, strict=True)), abs=1e-15)
        ends = {each["end"]: each for each in found["ends"] if each["split"] == row["split"]}
        assert values[0] == ends[row["first"]][f"{row['measure']}_on_line"]
        assert values[-1] == ends[row["second"]][f"{row['measure']}_on_line"]
    for name in ("barrier", "barrier_line"):
        for split in ("test", "train"):
            for measure in ("error", "loss"):
                rows = [row[name] for row in found["pairs"] if (row["split"], row["measure"]) == (split, measure)]
                assert result.last[f"{name}/{split}/{measure}"] == pytest.approx(np.mean(rows))
    distances = {(row["first"], row["second"]): row["l2"] for row in found["pairs"]}
    assert result.last["ends/l2"] == pytest.approx(np.mean(list(distances.values())))
    assert 0.5 < result.last["ends/cosine"] < 1


def test_distances_are_of_all_parameters(finished: tuple[ConnectSpec, Options]) -> None:
    from rt_scale.experiments.networks import load_network

    spec, options = finished
    one, other = (
        torch.cat([value.detach().double().flatten() for value in network.parameters()])
        for end in spec.ends[:2]
        if (network := load_network(options.store.run(end.run), "student", options.data_dir))
    )
    row = tables(spec, options)["pairs"][0]
    assert row["l2"] == pytest.approx(float((one - other).norm()))
    assert row["cosine"] == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)))


def test_the_same_again(finished: tuple[ConnectSpec, Options], settings: Make) -> None:
    spec, options = finished
    again = settings()
    run(spec, again)
    names = [path.name for path in options.store.run(spec).artifacts.iterdir()]
    assert sorted(names) == ["curves.parquet", "ends.parquet", "pairs.parquet"]
    for name in names:
        files = [(each.store.run(spec).artifacts / name).read_bytes() for each in (options, again)]
        assert files[0] == files[1]


@pytest.mark.parametrize("loader", ["resident", "map"])
def test_choices_change_numbers_and_loaders_do_not(
    finished: tuple[ConnectSpec, Options], settings: Make, loader: str
) -> None:
    spec, options = finished
    found = {"as it is": tables(spec, options)["curves"]}
    fewer = {"images": 100}, {"estimation_images": 64}, {"statistics": "interpolated"}, {"statistics": "batch"}
    for fields in fewer:
        other, given = connect(**fields), settings(store=options.store, loader=loader)
        run(other, given)
        found[str(fields)] = tables(other, given)["curves"]
    losses = {name: tuple(row["loss"] for row in rows) for name, rows in found.items()}
    assert len(set(losses.values())) == len(found)
    kept = tables(connect(statistics="interpolated"), options)["ends"]
    assert all(row["loss"] == row["loss_on_line"] for row in kept)


def test_two_points_are_the_ends(finished: tuple[ConnectSpec, Options]) -> None:
    spec, options = connect(points=2), finished[1]
    result = run(spec, options)
    assert result.steps == 3
    assert result.last["barrier_line/test/error"] == 0
    assert len(tables(spec, options)["curves"]) == 3 * 2 * 2
    with_line = tables(finished[0], options)["curves"]
    for row in tables(spec, options)["curves"]:
        assert row in with_line


def test_networks_without_batch_norms_are_measured_once(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    measure = Classifiers.measure
    monkeypatch.setattr(
        Classifiers, "measure", lambda self, *args: calls.append(args[1]) or measure(self, *args)  # type: ignore[func-returns-value]
    )  # fmt: skip
    spec = connect({"encoder": {"name": "convnet_4_1"}}, values=(1, 2), points=3)
    run(spec, settings())
    assert calls == ["kept", "kept", "estimated"]
    assert image_counts(spec, 1437, 360) == {"test": 360, "train": 300}
    assert image_counts(connect(), 1437, 360) == {"test": 360, "train": 300, "estimation": 300}
    assert image_counts(connect(images=7, estimation_images=9), 1437, 360) == {"test": 7, "train": 7, "estimation": 9}


def test_progress_is_shown(settings: Make, seen: Seen) -> None:
    spec = connect(values=(1, 2))
    run(spec, settings(observer=seen))
    assert seen.named("started")[-1] == (0, 5)
    assert [step for (step,) in seen.named("stepped")[-5:]] == [1, 2, 3, 4, 5]
    stages = [text for (text,) in seen.named("stage")]
    assert {"end 1 of 2", "end 2 of 2", "line 1 of 1"} < set(stages)


class Stop:
    """Asked to stop at the n-th look."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("looks", [1, 20, 100, 160])
def test_stopped_and_gone_on_with(finished: tuple[ConnectSpec, Options], settings: Make, looks: int) -> None:
    """In an end, in the first line, in the last one; bitwise as undisturbed."""
    spec, options = finished
    given = settings()
    for end in spec.ends:
        run(end.run, given)
    with pytest.raises(Stopped):
        run(spec, settings(stop=Stop(looks)))
    assert given.store.run(spec).status().state == "partial"
    (state,) = given.store.run(spec).checkpoints.steps()[-1:]
    assert state < spec.steps
    result = run(spec, given)
    expected = options.store.run(spec).result()
    assert expected is not None
    assert result.last == expected.last
    for name in ("curves", "pairs", "ends"):
        assert tables(spec, given)[name] == tables(spec, options)[name]
    table, alone = (read_metrics(each.store.run(spec).metrics_path).drop_columns("time") for each in (given, options))
    assert table == alone


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": 361}, ["images is 361", "test split", "360"]),
        ({"images": 301, "splits": ["train"]}, ["images is 301", "train split", "300"]),
        ({"estimation_images": 301}, ["estimation_images is 301", "300"]),
    ],
)
def test_more_images_than_there_are(settings: Make, fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        check(connect(**fields), settings().data_dir)
    assert all(word in str(refused.value) for word in words), refused.value
    check(connect(images=300, estimation_images=300), settings().data_dir)


def test_equal_weights_have_no_line(settings: Make) -> None:
    """Two runs whose orders differ, but whose only step takes all images: their starts are equal."""
    ends = {"run": END, "vary": "seeds.order", "values": [1, 2], "take": "init"}
    spec = RunSpec.model_validate({"kind": "connect", "ends": ends, "points": 3})
    with pytest.raises(RunError, match="ends 0 and 1 have equal weights"):
        run(spec, settings())


def test_what_it_costs_and_needs(digits: Prepared, settings: Make) -> None:
    known = KnownData({"digits": digits.info})
    cost = Connect().cost(connect(), known)
    assert cost.length.steps == 12
    assert cost.work is not None
    assert cost.network is not None
    step = cost.work().step.shared
    images = 360 + 300 + 300
    single = Connect().cost(connect(images=150, statistics="batch"), known)
    assert single.work is not None
    assert step.network / single.work().step.shared.network == pytest.approx(images / 300)
    assert step.network > 0
    data = check(connect(), settings().data_dir)
    assert Connect().needs(connect(), data).image_bytes == images * 64


def test_aligned_lines_beside_the_others(finished: tuple[ConnectSpec, Options]) -> None:
    """Their ends are the same; half of the way is the mean of the first network and the second one reordered."""
    fields = {"ends": {"run": END, "vary": "seeds.student", "values": [1, 2, 3]}, "statistics": "interpolated"}
    options, spec = finished[1], connect(**fields, align="weights")
    result, plain = run(spec, options), run(connect(**fields), options)
    assert set(result.last) == set(spec.logged)
    assert set(result.last) - set(plain.last) == {
        *(f"{name}/{split}/{measure}" for name in ("barrier_aligned", "barrier_line_aligned")
          for split in ("test", "train") for measure in ("error", "loss")),
        *("ends/l2_aligned", "ends/cosine_aligned", "ends/permuted"),
    }  # fmt: skip
    assert plain.last.items() <= result.last.items()
    assert (result.steps, plain.steps) == (3 + 2 * 3 * 3, 3 + 3 * 3)
    found = tables(spec, options)
    for row, without in zip(found["curves"], tables(connect(**fields), options)["curves"], strict=True):
        assert without.items() < row.items()
        at_end = row["position"] in (0, 1)
        assert (row["loss_aligned"] == row["loss"]) == at_end
        assert row["error_aligned"] == 1 - row["accuracy_aligned"]
    for row in found["pairs"]:
        assert row["l2_aligned"] < row["l2"]
        assert row["cosine_aligned"] > row["cosine"]
        assert 0 < row["permuted"] <= 1
        curve = [each[f"{row['measure']}_aligned"] for each in found["curves"]
                 if all(each[key] == row[key] for key in ("first", "second", "split"))]  # fmt: skip
        assert row["barrier_aligned"] == max(curve) - (curve[0] + curve[-1]) / 2
    _halfway(spec, options, found["curves"])


def _halfway(spec: ConnectSpec, options: Options, curves: list[dict[str, Any]]) -> None:
    from rt_scale.analyses.alignment import align
    from rt_scale.analyses.units import hidden_units
    from rt_scale.experiments.networks import load_network

    one, other = (load_network(options.store.run(end.run), "student", options.data_dir) for end in spec.ends[1:])
    generator = torch.Generator().manual_seed(stream("connect.align", 0, 1, 2))
    aligned = align(one.state_dict(), other.state_dict(), hidden_units(one, 1, 8), generator).weights
    half = {name: (value + aligned[name]) / 2 for name, value in one.state_dict().items()}
    one.load_state_dict(half)
    data = open_prepared("digits", options.data_dir)
    images = torch.from_numpy(data.test.read_all()).permute(0, 3, 1, 2) / 255
    logits = one.eval()((images - data.info.mean[0]) / data.info.std[0])
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.test.labels).long())
    (row,) = (row for row in curves
              if (row["first"], row["second"], row["split"], row["position"]) == (1, 2, "test", 0.5))  # fmt: skip
    assert row["loss_aligned"] == pytest.approx(loss.item(), rel=1e-5)


def test_aligned_lines_gone_on_with(finished: tuple[ConnectSpec, Options], settings: Make) -> None:
    """Stopped in the lines, before and after one to matched units."""
    spec, looks = connect(values=(1, 2, 3), align="weights", points=3), Stop(0)
    alone, given = settings(store=finished[1].store, stop=looks), settings()
    expected = run(spec, alone)
    for end in spec.ends:
        run(end.run, given)
    for share in (0.6, 0.2):
        with pytest.raises(Stopped):
            run(spec, settings(stop=Stop(int(-looks.left * share))))
    assert len(spec.ends) < given.store.run(spec).checkpoints.steps()[-1] < spec.steps
    assert run(spec, given).last == expected.last
    assert tables(spec, given) == tables(spec, alone)
