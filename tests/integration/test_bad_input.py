"""Bad input through the real entry point: one paragraph that helps, the right exit code, and nothing lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.spec.document import set_dotted
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

SPEC: dict[str, Any] = {
    "data": {"name": "digits", "samples": 60},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 3, "batch_size": 32},
    "probe": {"every": "1ep", "knn": 5, "epochs": 1, "standardized": False},
}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store and a data folder of our own, named as a user may name them."""
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(data_dir))
    monkeypatch.chdir(tmp_path)


def spec_file(path: Path, value: Any = SPEC) -> Path:
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


# field, value, what the message must hold
FIELDS = [
    ("encoder.nam", "vgg11", ["encoder.nam: unknown key", "did you mean 'name'?"]),
    ("encodr", {"name": "vgg11"}, ["encodr: unknown key", "did you mean 'encoder'?"]),
    ("encoder.name", "vgg12", ["Unknown encoder 'vgg12'", "Did you mean 'vgg1", "convnet_<width>_<depth>"]),
    ("encoder.norm", "bach", ["'bach' is not known", "did you mean 'batch'?"]),
    ("train.optimizer.name", "adamm", ["'adamm' is not known", "did you mean 'adam", "sgd"]),
    ("data.name", "digts", ["Unknown data set 'digts'", "Did you mean 'digits'?"]),
    ("data.name", "mnist", ["'mnist' is not prepared", "rt-scale data prepare mnist"]),
    ("precision", "float23", ["'float23' is not known", "did you mean 'float32'?"]),
    ("student.alpha", 1.5, ["student.alpha", "1.5", "1"]),
    ("student.alpha", -0.25, ["student.alpha", "-0.25", "0"]),
    ("student.alpha", "much", ["student.alpha", "'much'", "number"]),
    ("student.alpha", False, ["student.alpha: a number is expected, but false was given"]),
    ("probe.knn", True, ["probe.knn: a whole number is expected, but true was given"]),
    ("probe.linear", 1, ["probe.linear: true or false is expected, but 1 was given"]),
    ("train.batch_size", 2**63, ["train.batch_size", "less than or equal to 1000000000"]),
    ("projector.out_dim", 0, ["projector.out_dim", "0", "1"]),
    ("projector.out_dim", 65537, ["projector.out_dim", "65537", "65536"]),
    ("train.epochs", 0, ["train.epochs", "0"]),
    ("probe.every", "5epp", ["probe.every", "5epp", "ep"]),
    ("encoder.name", "vgg11", ["Images of 8 x 8 pixels are too small for encoder 'vgg11'", "data.size=32"]),
    ("data.samples", 5, ["data.samples is 5", "1,437"]),
    ("probe.knn", 500, ["probe.knn is 500", "at most 60"]),
    ("kind", "supervised", ["'supervised' is not known", "did you mean 'supervise'?"]),
    ("kind", "supervise", ["one output a class: projector.out_dim is 32", "set projector.out_dim to 10"]),
    ("teacher.statistics", "student", ["statistics follow the student only", "update: ema"]),
    ("teacher.temperature", "linear(0.04, 0)", ["teacher.temperature", "greater than 0"]),
    ("objective.pairing", "all", ["there is one", "set augment.kind to multicrop"]),
    ("objective.label_noise", 0.5, ["label_noise changes labels", "set kind: supervise"]),
    ("augment.kind", "multicrop", ["the 10 local views would not be used"]),
    ("augment.padding", 2, ["kind none does not use padding"]),
    ("teacher.start_from", {"run": "sme"}, ["teacher.start_from.run must be 'same', {same_but", "given: sme"]),
    ("teacher.start_from", {"run": {"same_but": {"encoder": {"width": 2}}}}, ["between equal encoders", "width: 2.0"]),
    ("student.start_from", {"run": {"same_but": {"data": {"name": "mnist"}}}}, ["'mnist' is not prepared"]),
]


@pytest.mark.parametrize(("field", "value", "parts"), FIELDS)
def test_a_bad_spec(cli: Any, tmp_path: Path, field: str, value: Any, parts: list[str]) -> None:
    message = cli("run", spec_file(tmp_path / "spec.yaml", set_dotted(SPEC, field, value))).refusal()
    for part in parts:
        assert part in message
    assert not (tmp_path / "store" / "runs").exists()


@pytest.mark.parametrize(("field", "value", "parts"), FIELDS)
def test_a_bad_point_of_a_sweep_starts_nothing(
    cli: Any, tmp_path: Path, field: str, value: Any, parts: list[str]
) -> None:
    sweep = {"name": "bad", "base": set_dotted(SPEC, field, value), "axes": {"seeds.teacher": [0, 1]}}
    message = cli("sweep", spec_file(tmp_path / "sweep.yaml", sweep)).refusal()
    for part in parts:
        assert message.count(part) >= 1
    assert not (tmp_path / "store" / "sweeps").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"axes": {"student.alhpa": [1]}}, ["Unknown field of an axis 'student.alhpa'", "'student.alpha'"]),
        (
            {"axes": {"teacher.start_from.take": ["innit"]}},
            ["teacher.start_from.run: required", "'innit' is not known"],
        ),
        (
            {"axes": {"student.start_from.run.same_but.train.epoch": [1]}},
            ["'train.epoch'. Did you mean 'train.epochs'?"],
        ),
        ({"axes": {"student.alpha": [0.5, 1.5, 2]}}, ["nothing was started", "1.5", "2"]),
        ({"axes": {"student.alpha": []}}, ["axis student.alpha has no values"]),
        ({"axes": {"projector.out_dim": {"pow3": [1, 2]}}}, ["'pow3'", "Did you mean 'pow2'?"]),
        ({"zip": [{"student.alpha": [0, 1], "seeds.data": [1]}]}, ["Zipped fields need equally many values"]),
        ({"seeds": 0}, ["seeds must be a number of at least 1"]),
        ({"seeds": 10**30}, ["line", "has 31 digits", "2^64"]),
        ({"seeds": 10**10}, ["seeds must be a number of at least 1 and at most 1,000,000,000"]),
        ({"axes": [1]}, ["axes: a mapping is expected, but [1] was given"]),
        ({"name": "x" * 300}, ["name: 'xxx", "of 300 characters", "1 to 100 characters"]),
        ({"name": "a\x07b"}, ["name: 'a\\x07b' is not a valid name"]),
        ({"launch": {"cpu": 1}}, ["launch.cpu: unknown key", "did you mean 'cpus'?"]),
        ({"name": "../evil"}, ["name", "../evil"]),
    ],
)
def test_a_bad_sweep(cli: Any, tmp_path: Path, change: dict[str, Any], parts: list[str]) -> None:
    message = cli("sweep", spec_file(tmp_path / "sweep.yaml", {"name": "bad", "base": SPEC, **change})).refusal()
    for part in parts:
        assert part in message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["run", "sweep", "status", "report"])
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"data: {name: digits\nencoder: [", "line 2"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "is not YAML"),
        (b"- a\n- b\n", "contains a list"),
        (b"", "contains nothing"),
        (b"data: {name: a}\ndata: {name: b}\n", "'data' appears twice, first in line 1"),
        (b"data: {{ x }}\n", "fill in a template such as {{ x }}"),
        (b"data: &a {name: *a}\n", "*a is inside the value that it refers to"),
        (b"data: {samples: " + b"9" * 5000 + b"}\n", "has 5000 digits"),
        ("data: {name: a}".encode("utf-16"), "save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_yaml_mapping(cli: Any, tmp_path: Path, command: str, content: bytes, part: str) -> None:
    (tmp_path / "spec.yaml").write_bytes(content)
    message = cli(command, tmp_path / "spec.yaml").refusal()
    assert str(tmp_path / "spec.yaml") in message
    assert part in message


def test_files_that_are_missing_or_of_the_other_kind(cli: Any, tmp_path: Path) -> None:
    spec = spec_file(tmp_path / "spec.yaml")
    sweep = spec_file(tmp_path / "sweep.yaml", {"name": "a", "base": SPEC})
    assert f"Did you mean {spec}?" in cli("run", tmp_path / "spce.yaml").refusal()
    assert f"rt-scale run {spec}" in cli("sweep", spec).refusal()
    assert f"rt-scale sweep {sweep}" in cli("run", sweep).refusal()
    assert "cannot be read" in cli("run", tmp_path).refusal()
    assert "None of the 1 runs of sweep 'a' is finished" in cli("report", sweep).refusal()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--set", "encoder.name"], "'--set encoder.name' is not an assignment"),
        (["--set", "encoder.nam=x"], "did you mean 'name'?"),
        (["--set", "student.alpha=[1"], "is not YAML"),
        (["--set", "probe.knn=true"], "probe.knn: a whole number is expected, but true was given"),
        (["--set", "probe.knn=1:30"], "probe.knn: a whole number is expected, but '1:30' was given"),
        (["--set", "data.samples=2024-13-45"], "but '2024-13-45' was given"),
        (["--set", "data.name=[a,\nb]"], "write one, as in"),
        (["--set", ".".join("a" * 1500) + "=1"], "1499 levels deep"),
        (["--device", "cdua"], "The device 'cdua' cannot be used here"),
        (["--threads", "0"], "0 threads were asked for"),
        (["--device", "cpu", "--set", "precision=tf32"], "precision tf32 is arithmetic of NVIDIA GPUs since Ampere"),
    ],
)
def test_bad_options(cli: Any, tmp_path: Path, arguments: list[str], part: str) -> None:
    assert part in cli("run", spec_file(tmp_path / "spec.yaml"), *arguments).refusal()
    assert not (tmp_path / "store" / "runs").exists()


@pytest.mark.parametrize("place", ["file/store", "file", "/sys/rt-scale/store"])
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_store_that_cannot_be_written(cli: Any, tmp_path: Path, command: str, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    value = SPEC if command == "run" else {"name": "a", "base": SPEC}
    file = spec_file(tmp_path / "spec.yaml", value)
    message = cli(command, file, "--store", tmp_path / place).refusal()
    assert f"'{tmp_path / place}" in message
    assert "cannot be written" in message
    assert "--store or RT_SCALE_STORE" in message
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_data_folder_that_cannot_be_written(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = cli("data", "prepare", "digits", "--data-dir", tmp_path / "file" / "data").refusal()
    assert f"'{tmp_path / 'file'}" in message


@pytest.mark.parametrize(("checkpoints", "number"), [(0, 1), (1, 4), (2, 2)])
def test_a_full_disk_loses_nothing(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: int, number: int
) -> None:
    """Nothing can be written from the n-th time on after so many checkpoints are there."""
    file = spec_file(tmp_path / "spec.yaml")
    spec = RunSpec.model_validate(SPEC)
    run_dir = Store(tmp_path / "store").run(spec)
    synced, real = [0], os.fsync

    def full(handle: int) -> None:
        synced[0] += len(run_dir.checkpoints.steps()) >= checkpoints
        if synced[0] >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = cli("run", file).refusal(code=1)
    assert "The disk is full" in message
    assert "run the same command again" in message
    kept = run_dir.checkpoints.steps()
    assert run_dir.result() is None
    assert run_dir.status().state in ("partial", "failed", "missing")
    assert (checkpoints > 0) is bool(kept)
    ended = cli("run", file)
    assert ended.code == 0, ended
    if any(kept):
        assert f"resuming at step {kept[-1]} of 6" in ended.out
    other = cli("run", file, "--store", tmp_path / "other", "--json")
    assert other.code == 0
    first, second = run_dir.result(), Store(tmp_path / "other").run(spec).result()
    assert first is not None
    assert second is not None
    assert first.last == second.last


def test_a_failure_while_running_is_exit_code_1(cli: Any, tmp_path: Path) -> None:
    spec = set_dotted(set_dotted(SPEC, "train.optimizer", {"name": "sgd", "lr": 1e30}), "student.alpha", 1.0)
    message = cli("run", spec_file(tmp_path / "spec.yaml", spec)).refusal(code=1)
    assert "training diverged. Lower train.optimizer.lr" in message
    assert "1 failed" in cli("status").out


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "train.beton", 5000),
        lambda folder: (folder / "test.beton").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
    ],
)
def test_prepared_data_that_are_damaged(cli: Any, tmp_path: Path, damage: Damage) -> None:
    data = tmp_path / "data"
    assert cli("data", "prepare", "digits", "--data-dir", data).code == 0
    damage(data / "digits")
    message = cli("run", spec_file(tmp_path / "spec.yaml"), "--data-dir", data).refusal()
    assert str(data / "digits") in message
    assert not (tmp_path / "store" / "runs").exists()
