"""The Python API: specs, runs and stores."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import rt_scale as rt
from rt_scale.cli import app
from tests.unit.api.conftest import TINY


def test_importing_imports_neither_torch_nor_ray() -> None:
    program = (
        "import sys, rt_scale as rt\n"
        "heavy = {'torch', 'ray', 'numpy', 'pydantic'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
        "rt.load({'data': {'name': 'digits'}, 'encoder': {'name': 'vgg11'}}), rt.Run, rt.open_store\n"
        "print(sorted({'torch', 'ray'} & sys.modules.keys()), set(rt.__all__) <= set(dir(rt)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["[]", "[] True"]
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        rt.runs  # noqa: B018


def test_a_spec_is_the_same_from_a_file_and_from_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(TINY))
    changes = {"student.alpha": 0.25, "encoder": {"name": "vgg11"}, "probe.also": ["mnist"], "data.samples": None}
    spec = rt.load(file, changes)
    assert spec == rt.load(str(file), changes) == rt.load(TINY, changes)
    assert (spec.student.alpha, spec.encoder.name, spec.data.samples) == (0.25, "vgg11", None)
    assert rt.load(TINY) == rt.load(file)
    with pytest.raises(rt.InputError, match=r"alpah.*did you mean 'alpha'"):
        rt.load(TINY, {"student.alpah": 0.5})
    with pytest.raises(rt.InputError, match="that YAML cannot hold"):
        rt.load(TINY, {"student.alpha": {1, 2}})
    with pytest.raises(rt.InputError, match="none"):
        rt.load(tmp_path / "none.yaml")


def test_a_run_is_computed_once_and_opened_by_a_part_of_its_name(places: dict[str, Any]) -> None:
    spec = rt.load(TINY)
    run = rt.run(spec, **places)
    assert (run.name, run.spec, run.status.state, run.status.attempts) == (spec.name, spec, "done", 1)
    assert run.result is not None
    assert rt.run(spec, **places).status.attempts == 1
    metrics = run.metrics
    assert metrics.column_names == ["step", "epoch", "name", "value", "time"]
    linear = metrics.to_pandas().query("name == 'probe/student/linear'")["value"]
    assert linear.iloc[-1] == run.result.last["probe/student/linear"]
    other = rt.run(rt.load(TINY, {"seeds.student": 1}), **places)
    store = rt.open_store(places["store"])
    assert [each.name for each in store.runs] == sorted([run.name, other.name])
    for part in (run.name, run.name[:16], spec.hash, spec.hash[:8]):
        assert store.run(part).name == run.name
    assert (run.path / "result.json").is_file()
    assert "done" in repr(run)
    with pytest.raises(rt.InputError, match=r"beginning of 2 runs: distill-.*distill-"):
        store.run("distill")
    for name in ("supervise", ""):
        with pytest.raises(rt.InputError, match=f"the 2 runs in .* begins with '{name}'"):
            store.run(name)


def test_arguments_reach_the_run(places: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    given = {"threads": 1, "loader": "map", "accelerate": "none", "cache_teacher": False}
    run = rt.run(rt.load(TINY), **given, **places | {"progress": True})
    record = run._dir.record()
    assert record is not None
    execution = record.execution
    assert (execution.threads, execution.loader, execution.cache_teacher) == (1, "map", False)
    shown = capsys.readouterr()
    assert "epoch 2: linear" in shown.out
    assert not shown.err
    with pytest.raises(rt.InputError, match="gpu"):
        rt.run(rt.load(TINY, {"seeds.data": 1}), **places | {"device": "gpu"})
    with pytest.raises(rt.InputError, match="Unknown way to accelerate"):
        rt.run(rt.load(TINY, {"seeds.data": 1}), accelerate="fast", **places)
    rt.run(rt.load(TINY, {"seeds.data": 1}), **places)
    assert not any(capsys.readouterr())


def test_errors_have_the_words_of_the_command_line(places: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(TINY))
    options = ["--store", places["store"], "--data-dir", places["data_dir"], "--device", "cpu"]

    def both(changes: dict[str, Any], kind: type[Exception]) -> None:
        words = [f"--set={key}={value}" for key, value in changes.items()]
        with pytest.raises(kind) as typed:
            CliRunner().invoke(app, ["run", str(file), *words, *map(str, options)], catch_exceptions=False)
        with pytest.raises(kind) as called:
            rt.run(rt.load(file, changes), **places)
        assert str(called.value) == str(typed.value)

    both({"data.samples": 5}, rt.InputError)
    both({"encoder.name": "vgg12"}, rt.InputError)
    both({"train.optimizer.lr": 1e30}, rt.RunError)


def test_a_run_leaves_the_session_as_it_was(places: dict[str, Any]) -> None:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    torch.backends.cudnn.allow_tf32, allowed = True, torch.backends.cudnn.allow_tf32
    streams = sys.stdout, sys.stderr
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    try:
        run = rt.run(rt.load(TINY), threads=2, **places)
        run.embed(np.zeros((3, 8, 8, 1), np.uint8))
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    assert torch.get_num_threads() == 1
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    assert (sys.stdout, sys.stderr) == streams
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]


def test_a_run_in_another_thread(places: dict[str, Any]) -> None:
    ended: list[rt.Run] = []
    thread = threading.Thread(target=lambda: ended.append(rt.run(rt.load(TINY), **places)))
    thread.start()
    thread.join()
    assert ended[0].status.state == "done"


def test_an_interrupt_writes_a_checkpoint_and_the_same_call_resumes(places: dict[str, Any], tmp_path: Path) -> None:
    program = tmp_path / "session.py"
    program.write_text(SESSION)
    long = TINY | {"train": {"epochs": 400, "batch_size": 32}, "probe": {"linear": False, "knn": 5}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(long))
    places = {name: str(places[name]) for name in ("store", "data_dir")}
    ended = subprocess.run(
        [sys.executable, program, tmp_path / "spec.yaml", *places.values()], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    (stopped,) = (line for line in lines if line.startswith("stopped partial at "))
    step = int(stopped.split()[-1])
    assert 0 < step < 800
    assert f"resuming at step {step} of 800" in lines
    assert lines[-1] == "done in 2 attempts, at 800"
    assert "once more to stop at once" in ended.stdout
    alone = rt.run(rt.load(long), **places, device="cpu", threads=1, progress=False)
    assert alone.status.attempts == 2


SESSION = """
import os, signal, sys, threading, time
import rt_scale as rt

file, store, data_dir = sys.argv[1:]
spec = rt.load(file)
opened = rt.open_store(store)

def interrupt():
    # A checkpoint is there once training has begun; then the session gets Ctrl-C.
    while not opened.kept.run(spec).checkpoints.steps():
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
handler = signal.getsignal(signal.SIGINT)
try:
    rt.run(spec, store, data_dir=data_dir, device="cpu", threads=1)
    sys.exit("it was not interrupted")
except KeyboardInterrupt:
    run = opened.run(spec.name)
    assert run.result is None
    assert run.embed(__import__("numpy").zeros((2, 8, 8, 1), "uint8")).shape[0] == 2
assert signal.getsignal(signal.SIGINT) is handler
print("stopped", run.status.state, "at", max(run._dir.checkpoints.steps()))
run = rt.run(spec, store, data_dir=data_dir, device="cpu", threads=1)
print("done in", run.status.attempts, "attempts, at", run.result.steps)
"""
