from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.other_data import DataHere, compare, refuse_other_data
from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import to_json, write_bytes
from rt_scale.store.results import DataRecord
from rt_scale.store.store import Store
from tests.records import run_record

THEN = "ab" * 32


def record(sha256: str, name: str = "digits", **more: Any) -> DataRecord:
    return DataRecord.model_validate({"name": name, "title": "Digits", "sha256": sha256, **more})


@pytest.fixture
def here(data_dir: Path, digits: Prepared) -> DataHere:
    return DataHere(data_dir)


def test_every_set_of_a_run_is_compared(here: DataHere, digits: Prepared) -> None:
    assert here.others("run", record(digits.sha256)) == []
    assert here.others("run", record(THEN, "never-prepared", also={"nor-this": {"title": "", "sha256": THEN}})) == []
    nested = record(digits.sha256, starts={"first": record(digits.sha256, starts={"zeroth": record(THEN)})})
    assert [(each.run, each.then, each.here) for each in here.others("run", nested)] == [
        ("zeroth", THEN, digits.sha256)
    ]
    also = record(THEN, "never-prepared", also={"digits": {"title": "Digits", "sha256": THEN}})
    assert [each.data for each in here.others("run", also)] == ["digits"]
    with pytest.raises(
        InputError, match=rf"Run zeroth .*'digits' .*sha256 {THEN[:12]}\.\.\., here {digits.sha256[:12]}"
    ):
        refuse_other_data("run", nested, here.folder)


def test_all_must_be_here_to_be_the_same(here: DataHere, digits: Prepared) -> None:
    known = {"title": "Digits", "sha256": digits.sha256}
    assert here.same("run", record(digits.sha256, also={"digits": known})) is True
    assert here.same("run", record(digits.sha256, also={"elsewhere": known})) is None
    assert here.same("run", record(THEN, also={"elsewhere": known})) is False
    noise = record("cd" * 32, "gaussian", also={"digits": known})  # drawn by the code: nothing of it is prepared
    assert here.same("run", noise) is None


@pytest.mark.parametrize("length", [0, 1 << 14, 100_000])
def test_results_of_any_length_and_form_are_read(here: DataHere, tmp_path: Path, digits: Prepared, length: int) -> None:
    store, values = Store(tmp_path), {f"metric {number}": 0.5 for number in range(length // 20)}
    whole = {"last": values, "data": record(THEN).to_json()}
    texts = {
        "a": to_json(whole),
        "b": json.dumps(whole).encode(),
        "c": to_json({"data": record(THEN).to_json(), "last": values}),  # as nobody writes it
        "same": to_json({"last": values, "data": record(digits.sha256).to_json()}),
        "started": to_json({"last": values, "data": record(digits.sha256, starts={"a": record(THEN)}).to_json()}),
        "old": to_json({"last": values}),
        "cut": to_json(whole)[:-9],
    }
    for name, text in texts.items():
        write_bytes(store.run(name).path / "result.json", text)
    write_bytes(store.run("begun").path / "environment.json", to_json(run_record(data=record(THEN)).to_json()))
    write_bytes(store.run("held").path / "environment.json", to_json({"attempts": []}))
    affected, text = compare(store, [*texts, "begun", "held", "missing"], here, "of the store")
    assert {name: each.finished for name, each in affected.items()} == {
        "a": True, "b": True, "c": True, "started": True, "begun": False,
    }  # fmt: skip
    assert {each.run for each in affected["a"].sets} | {each.run for each in affected["started"].sets} == {"a"}
    assert "5 of 10 runs of the store (4 finished and 1 begun, a and others)" in text


def test_a_set_that_is_damaged_or_no_set_at_all_says_nothing(tmp_path: Path) -> None:
    for name, text in (("digits", "{"), ("other", "{}")):
        write_bytes(tmp_path / "data" / name / "meta.json", text.encode())
    here = DataHere(tmp_path / "data")
    for name in ("digits", "other", "..", "../data/digits", "/"):
        assert here.others("run", record(THEN, name)) == []


def test_no_file_is_opened_where_no_data_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = DataHere(tmp_path / "nowhere")
    monkeypatch.setattr(here, "others", None)
    assert compare(Store(tmp_path), ["a"], here, "of the store") == ({}, "")


def test_the_checksum_of_a_set_is_read_once(
    here: DataHere, tmp_path: Path, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rt_scale.experiments import other_data

    asked: list[str] = []
    monkeypatch.setattr(other_data, "contents_sha256", lambda name, folder: asked.append(name))
    store = Store(tmp_path)
    for number in range(20):
        data = record(THEN, also={"shades": {"title": "", "sha256": THEN}})
        write_bytes(
            store.run(f"run-{number}").path / "result.json", to_json({"name": f"run-{number}", "data": data.to_json()})
        )
    compare(store, store.names(), here, "of the store")
    assert asked == ["digits", "shades"]
