"""What may be removed from a store, what must stay, and removing it."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.document import resolve_same
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.store import gc as garbage
from rt_scale.store import store as store_module
from rt_scale.store.gc import GRACE, find_garbage, remove_garbage
from rt_scale.store.lease import TIMES
from rt_scale.store.results import RunResult
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.records import run_result

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
ANCIENT = 10 * 86400.0


def spec(seed: int, start_from: RunSpec | None = None, role: str = "teacher") -> RunSpec:
    document: dict[str, Any] = {**BASE, "seeds": {"data": seed}}
    if start_from is not None:
        document[role] = {"start_from": {"run": start_from.model_dump(mode="json")}}
    return RunSpec.model_validate(document)


GRANDPARENT = spec(1)
PARENT = spec(2, GRANDPARENT, "student")
CHILD = spec(3, PARENT)
ALONE = spec(4)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four finished runs: a chain of three, and one alone. No sweep yet."""
    store = Store(tmp_path / "store")
    for each in (GRANDPARENT, PARENT, CHILD, ALONE):
        begin(store, each, run_result())
    return store


def begin(store: Store, each: RunSpec, result: RunResult | None) -> RunDir:
    run = store.run(each)
    with run.acquire():
        run.write_spec(each)
        if result is not None:
            run.complete(result)
    return run


def grow_old(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for each in [path, *path.rglob("*")]:
        os.utime(each, (then, then))


def names(store: Store, older_than: float = 0.0) -> set[str]:
    return {item.path.name for item in find_garbage(store, older_than)}


def test_without_a_sweep_every_run_is_listed_with_its_size_state_and_age(store: Store) -> None:
    failing = spec(5)
    run = begin(store, failing, None)
    with run.acquire():
        run.fail({"reason": "diverged"})
    grow_old(store.run(ALONE).path, 5000.0)
    found = {item.path.name: item for item in find_garbage(store)}
    assert [*found] == sorted(each.name for each in (GRANDPARENT, PARENT, CHILD, ALONE, failing))
    assert {name: item.state for name, item in found.items() if item.state != "done"} == {failing.name: "failed"}
    alone = found[ALONE.name]
    assert alone.path == store.run(ALONE).path
    assert alone.size == sum(path.stat().st_size for path in alone.path.rglob("*") if path.is_file())
    assert 4999 < alone.age < 5600  # file systems date by a coarser clock
    assert found[CHILD.name].age < 600


def test_what_a_sweep_lists_stays_and_so_does_what_it_starts_from_however_far_back(store: Store) -> None:
    store.sweep("one").write("", [CHILD.name])
    assert names(store) == {ALONE.name}
    store.sweep("two").write("", [ALONE.name])
    assert find_garbage(store) == []
    assert remove_garbage(store, []) == {}
    assert len(list(store)) == 4


def test_a_sweep_that_was_stopped_before_its_second_run_keeps_the_first(store: Store) -> None:
    """The run that is still to come has no directory, which could tell what it starts from."""
    for each in (PARENT, CHILD):
        shutil.rmtree(store.run(each).path)
    document = resolve_same({**BASE, "student": {"start_from": {"run": GRANDPARENT.model_dump(mode="json")}}})
    text = f"name: later\nbase: {document}\n".replace("None", "null")
    store.sweep("later").write(text, [PARENT.name], ["seeds.data=2"])
    assert names(store) == {ALONE.name}
    # Killed between the sweep's file and its list, too.
    (store.sweep("later").path / "runs.json").unlink()
    assert names(store) == {ALONE.name}
    begin(store, PARENT, None)
    assert names(store) == {ALONE.name}


def test_nothing_is_listed_where_it_cannot_be_told_what_is_needed(store: Store) -> None:
    sweep = store.sweep("broken")
    sweep.write("name: broken\nbase: {encoder: 3}\n", ["distill-0123456789abcdef"])
    with pytest.raises(InputError, match=r"'broken' has runs that were never begun.*move '.*broken' out"):
        find_garbage(store)
    old = "# run with --set seeds.data=2\nname: broken\nbase: {data: {name: digits}, encoder: {name: convnet_8_2}}\n"
    sweep.write(old, ["distill-0123456789abcdef"])  # as versions before kept assignments
    with pytest.raises(InputError, match=r"'broken' has runs that were never begun.*an earlier version ran it"):
        find_garbage(store)
    sweep.write("", [CHILD.name])
    path = store.run(CHILD).path / "spec.json"
    path.write_text(path.read_text().replace('"encoder"', '"encoded"', 1))
    with pytest.raises(RunError, match=f"{CHILD.name}' needs is unknown.*another version"):
        find_garbage(store)


def test_a_running_run_is_never_touched_nor_what_it_starts_from(store: Store) -> None:
    found = find_garbage(store)
    with store.run(CHILD).acquire():
        (store.run(CHILD).path / "result.json").unlink()
        (store.run(CHILD).path / "checkpoints" / ".tmp-5-ab").mkdir(parents=True)
        grow_old(store.run(CHILD).path / "checkpoints", ANCIENT)
        assert names(store) == {ALONE.name}
        # Listed before it was begun: it stays all the same.
        stay = remove_garbage(store, found)
        assert {path.name for path in stay} == {GRANDPARENT.name, PARENT.name, CHILD.name}
        assert all("begun" in why for why in stay.values())
    assert sorted(run.name for run in store) == sorted(path.name for path in stay)


def test_an_owner_elsewhere_counts_as_at_work_for_an_hour(store: Store) -> None:
    run = store.run(ALONE)
    (run.path / "result.json").unlink()
    lease = run.path / "lease" / "1.json"
    lease.write_text(lease.read_text().replace('"machine": "', '"machine": "another '))
    for silent, listed in ((GRACE / 2, False), (2 * GRACE, True)):
        os.utime(lease, (time.time() - silent, time.time() - silent))
        assert (ALONE.name in names(store)) is listed


def test_who_beats_is_at_work_whatever_the_date(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set by hours between a heartbeat and the look at it."""
    run = store.run(ALONE)
    (run.path / "result.json").unlink()
    lease = run.path / "lease" / "1.json"
    lease.write_text(lease.read_text().replace('"machine": "', '"machine": "another '))
    os.utime(lease, (time.time() - 2 * GRACE,) * 2)
    found = [item for item in find_garbage(store) if item.path.name == ALONE.name]
    waited: list[float] = []
    monkeypatch.setattr(store_module, "_pause", lambda seconds: (waited.append(seconds), os.utime(lease)))
    assert remove_garbage(store, found) == {run.path: "it is being executed"}
    os.utime(lease, (time.time() - 2 * GRACE,) * 2)
    monkeypatch.setattr(store_module, "_pause", waited.append)
    assert remove_garbage(store, found) == {}
    assert not run.path.exists()
    assert waited == [TIMES.watch, TIMES.watch]


def test_ages_are_by_the_clock_that_dates_the_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = store.root / ".tmp-probe-0123"
    left.write_text("being written")
    monkeypatch.setattr(time, "time", lambda: 1e12)  # ours is far off
    found = find_garbage(store, older_than=ANCIENT)
    assert found == []


def test_who_takes_the_lease_at_the_last_moment_gets_the_run_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [item for item in find_garbage(store) if item.path.name == ALONE.name]
    (store.run(ALONE).path / "result.json").unlink()
    monkeypatch.setattr(garbage, "_kept", lambda *_: set())  # looked before it was begun
    monkeypatch.setattr(store_module, "_pause", lambda seconds: None)
    with store.run(ALONE).acquire() as lease:
        assert remove_garbage(store, found) == {store.run(ALONE).path: "it was begun again meanwhile"}
        lease.check()
    assert remove_garbage(store, found) == {}
    assert not store.run(ALONE).path.exists()


def test_older_than_keeps_the_young_and_what_they_start_from(store: Store) -> None:
    for each in (GRANDPARENT, ALONE):
        grow_old(store.run(each).path, ANCIENT)
    assert names(store, older_than=ANCIENT / 2) == {ALONE.name}
    assert names(store, older_than=2 * ANCIENT) == set()


def test_leftovers_of_killed_processes_wherever_they_are(store: Store) -> None:
    store.sweep("all").write("", [CHILD.name, ALONE.name])
    run, sweep = store.run(ALONE).path, store.sweep("all").path
    folders = [store.root, store.root / "runs", run, run / "lease", run / "checkpoints", sweep, sweep / "board" / "a"]
    left = [folder / ".tmp-x-1234" for folder in folders]
    for number, path in enumerate(left):
        (path / ".tmp-inside-5678").mkdir(parents=True)
        (path / "weights").write_bytes(bytes(100 + number))
    damaged = run / "checkpoints" / "damaged-6"
    damaged.mkdir()
    (damaged / "weights").write_bytes(bytes(7))
    # A process may be at work on the rest.
    assert {item.path: (item.state, item.size) for item in find_garbage(store)} == {damaged: ("leftover", 7)}
    for path in [*left, damaged]:
        grow_old(path, 2 * GRACE)
    found = {item.path: item.size for item in find_garbage(store)}
    assert found == {damaged: 7, **{path: 100 + number for number, path in enumerate(left)}}
    assert find_garbage(store, older_than=3 * GRACE) == []
    assert remove_garbage(store, find_garbage(store)) == {}
    assert not any(path.exists() for path in [*left, damaged])
    assert find_garbage(store) == []
    assert len(list(store)) == 4


def test_what_is_left_in_a_run_that_goes_is_listed_with_it_alone(store: Store) -> None:
    store.sweep("one").write("", [CHILD.name])
    left = store.run(ALONE).path / "checkpoints" / ".tmp-5-abcd"
    left.mkdir(parents=True)
    grow_old(left, 2 * GRACE)
    assert names(store) == {ALONE.name}


def test_removing_gives_runs_up_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it removes: what is left has no name of a run, and goes next time."""
    store.sweep("one").write("", [CHILD.name])
    found = find_garbage(store)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "remove", lambda path: None)
        remove_garbage(store, found)
    assert ALONE.name not in store.names()
    assert store.names() == sorted(each.name for each in (GRANDPARENT, PARENT, CHILD))
    (grave,) = (store.root / "runs").glob(".tmp-*")
    grow_old(grave, 2 * GRACE)
    assert [item.path for item in find_garbage(store)] == [grave]
    assert remove_garbage(store, found + find_garbage(store)) == {}
    assert not grave.exists()


def test_folders_that_are_no_runs_and_links_are_left_alone(store: Store, tmp_path: Path) -> None:
    store.sweep("one").write("", [CHILD.name])
    shutil.move(store.run(ALONE).path, tmp_path / "elsewhere")
    store.run(ALONE).path.symlink_to(tmp_path / "elsewhere")
    (store.root / "runs" / "notes").mkdir()
    (store.root / "runs" / "notes" / "spec.txt").write_text("mine")
    (store.root / "runs" / "readme").write_text("mine")
    assert find_garbage(store) == []


def test_an_empty_store_holds_no_garbage(tmp_path: Path) -> None:
    assert find_garbage(Store(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()


def test_a_run_of_which_a_sweep_takes_the_start_stays(store: Store) -> None:
    """Its checkpoint of step 0 is what is taken, whether the run that takes it was begun or not."""
    taking = RunSpec.model_validate(
        {**BASE, "teacher": {"start_from": {"run": ALONE.model_dump(mode="json"), "take": "init"}}}
    )
    listed = store.sweep("s")
    listed.write("name: s\nbase: " + json.dumps(taking.model_dump(mode="json")), [taking.name])
    assert taking.dependencies == ()
    assert ALONE.name not in names(store)
    begin(store, taking, None)
    assert ALONE.name not in names(store)
    assert CHILD.name in names(store)


def test_the_rounds_of_a_pruned_run_stay(store: Store) -> None:
    """They follow from its spec, which does not contain them."""
    head = {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10}
    labels = {**BASE, "kind": "supervise", "projector": head}
    first, second = (
        RunSpec.model_validate({**labels, "prune": {"round": number, "rewind": "1ep"}}) for number in (0, 2)
    )
    begin(store, first, run_result())
    begin(store, second, None)
    store.sweep("s").write("", [second.name])
    needed = {each.name for each in all_runs([second])}
    assert first.name in needed
    assert len(needed) == 4  # three rounds, and the run to the step that they rewind to
    assert not needed & names(store)
    assert ALONE.name in names(store)
