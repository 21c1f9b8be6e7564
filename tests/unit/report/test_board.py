"""What the board tells when it opens, without opening it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from rt_scale.report import board as module
from rt_scale.report.board import MOST_TICKED, open_board, pinned
from rt_scale.spec.errors import InputError, StoreUnavailable
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, single_runs
from rt_scale.tensorboard.sweep_view import MOST_LINES

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
ADDRESS = "http://here/"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server is started with; it tells its address, looks again once, and ends."""
    given: dict[str, Any] = {}

    def serve(folder: Path, ready: Callable[[str], None], *, refresh: Callable[[], None], **more: Any) -> None:
        given.update(more, folder=folder)
        ready(ADDRESS)
        refresh()

    monkeypatch.setattr(module, "serve", serve)
    return given


def loaded(store: Store, name: str, values: int) -> SweepRuns:
    norms = {"encoder.norm": ["none", "batch"]}
    axes = {**norms, "student.alpha": [number / values for number in range(values)]}
    sweep = SweepSpec(name=name, base=BASE, axes=axes)
    return SweepRuns(sweep, expand(sweep), store)


@pytest.mark.parametrize(("every_run", "drawn"), [(False, True), (True, True), (False, False)])
def test_what_is_served_and_where_figures_are(
    tmp_path: Path, served: dict[str, Any], every_run: bool, drawn: bool
) -> None:
    said: list[str] = []
    store = Store(tmp_path)
    sweeps = [loaded(store, "a", 2), loaded(store, "b", 2)]
    figure = store.sweep("b").report / "curves-knn.png"
    if drawn:
        figure.parent.mkdir(parents=True)
        figure.write_bytes(b"")
    open_board(sweeps, store, host="h", port=7, say=said.append, every_run=every_run, interval=3.0)
    folder = tmp_path / "sweeps" / "a" / ("board-with-b-runs" if every_run else "board-with-b")
    assert served == {"folder": folder, "title": "a, b", "host": "h", "port": 7, "interval": 3.0}
    assert said[0] == f"TensorBoard: {ADDRESS} (Ctrl-C ends it)"
    assert said[1].endswith(pinned(ADDRESS, sweeps))
    assert ("--runs" in said[2]) != every_run
    (told,) = said[3:]
    if drawn:
        assert told == f"  Figures of the report (a click enlarges one): {ADDRESS}#images&regexInput=%5Esweep%24"
    else:
        assert "no report was made yet (rt-scale report FILE)" in told


@pytest.mark.parametrize(("every_run", "prefix"), [(False, "%5E"), (True, "%5Emean/")])
def test_of_many_runs_some_are_pointed_out(
    tmp_path: Path, served: dict[str, Any], every_run: bool, prefix: str
) -> None:
    said: list[str] = []
    sweeps = [loaded(Store(tmp_path), "a", MOST_TICKED)]
    open_board(sweeps, Store(tmp_path), host="h", port=0, say=said.append, every_run=every_run)
    _, _, pattern = said[-1].partition(f": {ADDRESS}#custom_scalars&regexInput={prefix}")
    numbers = unquote(pattern).removeprefix("(").removesuffix(") ").split("|")
    # Two norms, and of one of them alphas from the first to the last.
    assert (len(numbers), numbers[0], numbers[-1]) == (MOST_LINES, "01", f"{MOST_TICKED}")


def test_the_students_charts_are_pinned_if_there_are_any(tmp_path: Path, served: dict[str, Any]) -> None:
    shown: list[str] = []
    sweep, store = loaded(Store(tmp_path), "a", 2), Store(tmp_path)
    open_board([sweep], store, host="h", port=0, say=print, show=shown.append)
    address, _, query = shown[0].partition("?")
    cards = [{"plugin": "scalars", "tag": f"probe/student/{probe}"} for probe in ("linear", "knn")]
    assert address == ADDRESS
    assert query.endswith("&smoothing=0#timeseries")
    assert json.loads(unquote(query).removeprefix("pinnedCards=").partition("&")[0]) == cards
    linear = SweepSpec.model_validate({"name": "b", "base": {**BASE, "probe": {"knn": 0}}})
    only = pinned(ADDRESS, [SweepRuns(linear, expand(linear), store)])
    assert "student/linear" in unquote(only)
    assert "knn" not in only


def test_a_store_that_does_not_answer_for_a_while_is_waited_for(
    tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refresh(self: Store, *, curves: bool = True, younger: float = 0.0) -> None:
        if younger:
            raise StoreUnavailable("away")

    monkeypatch.setattr(Store, "refresh", refresh)
    open_board([loaded(Store(tmp_path), "a", 2)], Store(tmp_path), host="h", port=0, say=print)
    assert served["title"] == "a"


def test_what_cannot_be_shown_is_refused(tmp_path: Path, served: dict[str, Any]) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="distinct names; given: a, a"):
        open_board([loaded(store, "a", 2), loaded(store, "a", 1)], store, host="h", port=0, say=print)
    with pytest.raises(InputError, match="There are no runs in"):
        open_board([], store, host="h", port=0, say=print)
    (store.root / "runs").mkdir(parents=True)
    with pytest.raises(InputError, match="There are no runs in"):
        open_board([], store, host="h", port=0, say=print)


def test_runs_of_a_store_are_named_by_what_differs(tmp_path: Path, served: dict[str, Any]) -> None:
    store, said = Store(tmp_path / "store"), list[str]()
    specs = [each.spec for each in loaded(store, "a", 2).points[:2]]
    for run, spec in ((store.run(spec), spec) for spec in specs):
        with run.acquire():
            run.write_spec(spec)
    open_board([], store, host="h", port=0, say=said.append)
    assert (served["folder"], served["title"]) == (store.root / "board-runs", "store")
    assert sorted(os.listdir(served["folder"])) == ["1 alpha=0,seed=0", "2 alpha=0.5,seed=0", "mean", "sweep"]
    open_board([single_runs(specs[:1], store)], store, host="h", port=0, say=print, every_run=True)
    assert served["folder"] == store.run(specs[0]).path / "board-runs"
    (name,) = {*os.listdir(served["folder"])} - {"mean", "sweep"}
    assert name == "data.name=digits,encoder.name=convnet_8_2,alpha=0,seed=0"
