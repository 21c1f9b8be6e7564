"""Kinds of runs: each has its own spec, found by name; a user's is imported by what executes it alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rt_scale import plugins
from rt_scale.plugins import Names
from rt_scale.spec import kinds
from rt_scale.spec.document import build_run, own_run, read_run
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import DistillSpec, SuperviseSpec, TrainingSpec
from rt_scale.spec.kinds import import_kinds, model_of
from rt_scale.spec.run import RunSpec, StoredSpec, all_runs, folder_prefix, read_recorded, recorded_name, runs_within
from tests.plugins import Write, write

__all__ = ["write"]
SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}}
LABELS: dict[str, Any] = {**SMALL, "kind": "supervise", "projector": {"out_dim": 10}}
OWN = """
from rt_scale.experiments.base import Experiment
from rt_scale.spec.part import Part
from rt_scale.spec.run import OwnSpec, RunSpec
from pydantic import Field, SerializeAsAny

class Before(Part):
    run: SerializeAsAny[RunSpec]

class CountSpec(OwnSpec):
    limit: int = 3
    after: Before | None = None
    others: tuple[Before, ...] = Field((), strict=False)

class Count(Experiment[CountSpec]):
    spec = CountSpec
"""


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_OWN", {})


@pytest.fixture
def count(write: Write) -> Path:
    return write("own.py", OWN)


def own(**fields: Any) -> RunSpec:
    return build_run(own_run({"kind": "own:Count", **fields}, Names()), "The spec")


def test_a_document_gives_a_spec_of_its_kind() -> None:
    assert type(RunSpec.model_validate(SMALL)) is DistillSpec
    assert type(RunSpec.model_validate(LABELS)) is SuperviseSpec
    assert type(TrainingSpec.model_validate(LABELS)) is SuperviseSpec
    assert type(SuperviseSpec.model_validate({**LABELS, "kind": "supervise"})) is SuperviseSpec
    spec = RunSpec.model_validate(SMALL)
    assert RunSpec.model_validate(spec) is spec
    assert RunSpec.model_validate(spec.fields) == spec


@pytest.mark.parametrize("model", [RunSpec, TrainingSpec, DistillSpec])
def test_another_kind_is_refused_with_those_that_there_are(model: type[RunSpec]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({**SMALL, "kind": "distil"})
    (problem,) = caught.value.errors()
    assert (problem["loc"], problem["input"]) == (("kind",), "distil")
    assert "'distill'" in problem["msg"]
    assert ("'supervise'" in problem["msg"]) == (model is not DistillSpec)
    with pytest.raises(ValidationError):
        DistillSpec.model_validate(LABELS)


def test_a_users_kind(count: Path) -> None:
    spec = own(limit=5, seeds={"data": 2})
    assert spec.name == recorded_name(spec.canonical())
    assert spec.name.startswith("count-")
    assert spec.plugins == {"own:Count": hashlib.sha256(count.read_bytes()).hexdigest()}
    assert spec.configuration_hash == own(limit=5).configuration_hash
    assert spec.shape == own(limit=5).shape != own(limit=6).shape
    assert (spec.title, spec.probes, spec.logged, spec.data_sets) == ("Count", (), {}, ())
    assert spec.alone_because


def test_a_users_kind_by_its_short_name(count: Path) -> None:
    spec = build_run(own_run({"kind": "Count", "limit": 5}, Names(["own"])), "The spec")
    assert spec == own(limit=5)
    with pytest.raises(InputError, match=r"'Cont'.* Did you mean 'Count'.*distill"):
        own_run({"kind": "Cont"}, Names(["own"]))


def test_another_source_is_another_run(count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    count.write_text(count.read_text() + "# changed")
    written = read_run({"kind": "own:Count"}, Names())  # known already, so that nothing is imported
    assert RunSpec.model_validate(written).name != before.name
    monkeypatch.setattr(plugins, "_loaded", {})
    with pytest.raises(InputError, match="another here than the spec names"):
        import_kinds(before.canonical())


def test_runs_within_a_users_run_come_first(count: Path) -> None:
    first, second = own(limit=1), RunSpec.model_validate(SMALL)
    spec = own(after={"run": first.canonical()}, others=[{"run": LABELS}, {"run": second.canonical()}])
    assert spec.dependencies == (first, RunSpec.model_validate(LABELS), second)
    assert all_runs([spec])[-1] == spec
    short = {"kind": "own:Count", "limit": 1}
    assert own(after={"run": short}, others=[{"run": LABELS}, {"run": SMALL}]) == spec
    assert own(others=[{"run": short}]).dependencies == (first,)
    inner = [recorded_name(each) for each in runs_within(spec.canonical())]
    assert sorted(inner) == sorted(each.name for each in spec.dependencies)


def test_reading_imports_nothing(count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = own(after={"run": {"kind": "own:Count", "limit": 1, "seeds": {"probe": 3}}}, seeds={"data": 7})
    monkeypatch.setattr(kinds, "_OWN", {})
    monkeypatch.setattr(kinds, "load", lambda *_: pytest.fail("it was imported"))
    stored = read_recorded(spec.canonical())
    assert isinstance(stored, StoredSpec)
    assert (stored.name, stored.configuration_hash) == (spec.name, spec.configuration_hash)
    assert [each.name for each in stored.dependencies] == [each.name for each in spec.dependencies]
    assert (stored.seeds, stored.fields) == (spec.seeds, spec.canonical())
    assert model_of("own:Count") is None
    with pytest.raises(InputError, match="cannot be named from a file without importing it"):
        read_run({"kind": "own:Count"}, Names())
    assert read_recorded(RunSpec.model_validate(SMALL).canonical()) == RunSpec.model_validate(SMALL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN.replace("spec = CountSpec", "pass"), "no kind of run"),
        (OWN.replace("(OwnSpec)", "(RunSpec)"), "no kind of run"),
        (OWN + "print(1)", "prints when it is imported"),
        (OWN + "raise KeyError('x')", "cannot be imported"),
    ],
)
def test_what_is_no_kind_is_refused(write: Write, text: str, words: str) -> None:
    write("own.py", text)
    with pytest.raises(InputError, match=words):
        own()


def test_a_folder_is_named_by_letters() -> None:
    assert folder_prefix("distill") == "distill"
    assert folder_prefix("my_package.exps:Count2D") == "countd"
    assert folder_prefix("m:_9") == "run"
