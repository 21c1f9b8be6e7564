"""Stores on S3, spoken to over the wire; every mirror stands for a machine of its own."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.spec.document import resolve_same
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.objects.bucket import Bucket
from rt_scale.store.objects.lease import ObjectLease
from rt_scale.store.objects.store import open_place
from tests.integration.dying import DIES, DIES_SENDING, Outcome, outcome
from tests.integration.object_server import Door, ObjectServer, Place, alone, serving, whole
from tests.integration.test_secrets import holding
from tests.integration.test_start_from import FIRST, RESTART
from tests.integration.test_start_from import SPEC as SECOND

Start = Callable[..., subprocess.Popen[str]]
DOCUMENT: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
    "train": {"epochs": 12, "batch_size": 128},
    "probe": {"every": "3ep", "epochs": 2, "standardized": False},
}
"""144 steps, with a checkpoint every 36."""
SPEC = RunSpec.model_validate(DOCUMENT)
SECRET = f"planted-{secrets.token_hex(16)}"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with serving() as running:
            yield running


@pytest.fixture
def place(server: ObjectServer, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("RT_SCALE_MIRROR", "")
    return Place(server, tmp_path, data_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Outcome:
    return outcome(alone(tmp_path_factory.mktemp("undisturbed"), data_dir, SPEC))


@pytest.mark.parametrize(
    ("program", "moment"),
    [
        (DIES_SENDING, "rt_scale.experiments.train:TrainingRun:after_step:100:before"),
        (DIES, "rt_scale.experiments.train:TrainingRun:after_step:20:before"),
        (DIES, "rt_scale.store.objects.bucket:Bucket:put_file:3:before"),
        (DIES, "rt_scale.store.objects.mirror:ObjectRun:_send_result:1:before"),
        (DIES, "rt_scale.store.objects.mirror:ObjectRun:_send_result:1:after"),
    ],
    ids=["at work", "before a checkpoint is sent", "while it is sent", "before the result", "after the result"],
)
def test_killed_on_one_machine_and_finished_on_another(
    place: Place, start: Start, cli: Any, undisturbed: Outcome, program: list[str], moment: str
) -> None:
    place.on("a")
    process = start(moment, *place.run(DOCUMENT), program=program)
    out, err = process.communicate(timeout=480)
    assert process.returncode == -signal.SIGKILL, (out, err)
    b = place.on("b")
    there = [key.split("/")[2:] for key in Bucket.open(place.address).entries(f"runs/{SPEC.name}")]
    if ["result.json"] in there:
        assert "complete already" in cli(*place.run(DOCUMENT)).out
        assert whole(b, SPEC) == undisturbed
        return
    assert "1 run: 1 partial" in cli("status", "--store", place.address).out
    sent = [int(key[1]) for key in there if key[0] == "checkpoints" and key[2:] == ["manifest.json"]]
    assert bool(sent) == (moment.partition(":")[0] != "rt_scale.store.objects.bucket" and "20:" not in moment)
    ended = cli(*place.run(DOCUMENT))
    assert ended.code == 0, ended
    step = max(sent, default=0)
    assert ended.out.count("resuming at step") == ended.out.count(f"resuming at step {step} of 144") == bool(step)
    assert (b.run(SPEC).status().state, b.run(SPEC).status().attempts) == ("done", 2)
    assert whole(b, SPEC) == whole(place.on("c"), SPEC) == undisturbed
    assert "complete already" in cli(*place.run(DOCUMENT)).out
    environment = place.on("c").run(SPEC).record()
    assert environment is not None
    assert len(environment.attempts) == 2


def test_a_second_driver_is_refused_while_the_first_is_at_work(
    place: Place, start: Start, cli: Any, wait_for: Any, undisturbed: Outcome
) -> None:
    a = place.on("a")
    first = start(*place.run(DOCUMENT))
    wait_for((a.run(SPEC).path / "environment.json").exists, first)
    first.send_signal(signal.SIGSTOP)  # so that it is not done before the other begins
    place.on("b")
    refusal = cli(*place.run(DOCUMENT)).refusal()
    assert f"runs/{SPEC.name}" in refusal
    assert f"is in use: process {first.pid} on host" in refusal
    rows = json.loads(cli("status", "--store", place.address, "--json").out)["runs"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("running", 1)]
    assert f"process {first.pid} on host" in rows[0]["detail"]
    first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=480)
    assert first.returncode == 0, (out, err)
    assert whole(place.on("b"), SPEC) == undisturbed


def test_of_drivers_at_the_same_moment_one_gets_the_run(place: Place) -> None:
    outcomes: list[Any] = []
    barrier = threading.Barrier(6, timeout=60)

    def contend() -> None:
        bucket = Bucket.open(place.address)
        barrier.wait()
        try:
            outcomes.append(ObjectLease(bucket, "runs/distill-0"))
        except InputError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (found for found in outcomes if isinstance(found, ObjectLease))
    winner.check()
    winner.release()
    assert all("is in use" in str(found) for found in outcomes if found is not winner)
    with ObjectLease(Bucket.open(place.address), "runs/distill-0") as lease:
        assert lease.attempt == 2


def test_a_run_starts_from_one_of_another_machine(place: Place, cli: Any, tmp_path: Path, data_dir: Path) -> None:
    first = {key: value for key, value in RESTART.items() if key != "teacher"} | {"student": {"alpha": 1.0}}
    assert RunSpec.model_validate(resolve_same(first)) == FIRST
    place.on("a")
    assert cli(*place.run(first)).code == 0
    b = place.on("b")
    ended = cli(*place.run(RESTART))
    assert ended.code == 0, ended
    assert whole(b, SECOND) == outcome(alone(tmp_path / "alone", data_dir, SECOND))
    assert [b.run(spec).status().attempts for spec in (FIRST, SECOND)] == [1, 1]
    # Of the run that was there, no more was brought than what is read.
    steps = b.run(FIRST).path / "checkpoints"
    assert [step.name for step in sorted(steps.iterdir()) if (step / "student.safetensors").exists()] == ["16"]


def test_the_server_is_away_for_a_while(place: Place, start: Start, wait_for: Any, undisturbed: Outcome) -> None:
    door = Door(place.server.port)
    try:
        place.address = place.server.address(place.folder.name, door.port)
        a = place.on("a")
        process = start(*place.run(DOCUMENT))
        wait_for((a.run(SPEC).path / "checkpoints" / "0").exists, process)
        door.open = False
        wait_for(lambda: door.turned_away > 2, process)
        time.sleep(3)
        assert process.poll() is None
        door.open = True
        out, err = process.communicate(timeout=480)
        assert process.returncode == 0, (out, err)
        assert whole(place.on("b"), SPEC) == undisturbed
        assert a.run(SPEC).status().attempts == 1
    finally:
        door.close()


def test_what_is_refused(place: Place, cli: Any) -> None:
    def refusal(store: str) -> str:
        found: str = cli("status", "--store", store).refusal()
        return found

    place.on("a")
    assert "holds a user name or a key" in refusal("s3://testing:qUiEt@bucket/x")
    assert "has the option 'secret_key'" in refusal(f"{place.address}&secret_key=qUiEt")
    assert "Unknown kind of store 'https'. Known: az, gs, s3." in refusal("https://bucket/x")
    typo = place.server.address("x", bucket="typo")
    assert "There is no bucket 'typo'" in refusal(typo)
    command = place.run(DOCUMENT)
    command[command.index("--store") + 1] = typo
    assert "There is no bucket 'typo'" in cli(*command).refusal()
    place.server.let_in(anybody=False)
    try:
        assert "Check the credentials in the environment" in refusal(place.address)
        assert "Check the credentials in the environment" in cli(*place.run(DOCUMENT)).refusal()
    finally:
        place.server.let_in(anybody=True)
    assert "0 runs" in cli("status", "--store", place.address).out


def test_the_endpoint_of_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{place.server.port}")
    store = open_place("s3://bucket/of/the/environment?region=us-east-1")
    store.sweep("small").write("name: small", ["distill-0"])
    other = open_place(place.server.address("of/the/environment"))
    other.refresh()
    assert other.root != store.root
    assert other.sweep("small").runs() == ["distill-0"]


def test_a_sweep_and_what_others_see_of_it(place: Place, start: Start, cli: Any) -> None:
    a = place.on("a")
    file = place.folder / "small.yaml"
    base = {**DOCUMENT, "train": {"epochs": 2, "batch_size": 128}}
    file.write_text(yaml.safe_dump({"name": "small", "base": base, "axes": {"student.alpha": [0.1, 1.0]}}))
    where = ["--store", place.address]
    process = start("sweep", file, *where, "--data-dir", place.data_dir, "--concurrency", 1)
    out, err = process.communicate(timeout=480)
    assert (process.returncode, err) == (0, ""), out
    assert "2 of 2 runs finished" in out
    points = load_sweep(file)[1]
    b = place.on("b")
    rows = json.loads(cli("status", file, *where, "--json").out)["runs"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("done", 1)] * 2
    assert "small  2" in " ".join(cli("status", *where).out.split("\n")).replace("   ", "  ")
    tables = json.loads(cli("report", file, *where, "--json").out)["tables"]
    local = json.loads((a.sweep("small").report / "tables.json").read_text())
    assert tables == local["tables"]
    exported = json.loads(cli("export", file, "--to", "parquet", *where, "--json").out)
    assert exported["runs"]["rows"] == 2
    assert exported["curves"]["rows"] > 20
    assert [*b.root.rglob("events.*")] == []  # nothing until now shows them
    assert "nothing to remove" in cli("gc", *where).out
    assert [whole(b, point.spec) == outcome(a.run(point.spec)) for point in points] == [True, True]
    assert "complete already" not in cli("plan", file, *where, "--data-dir", place.data_dir).out
    again = cli("sweep", file, *where, "--data-dir", place.data_dir)
    assert again.code == 0, again
    assert [b.run(point.spec).status().attempts for point in points] == [1, 1]
    assert holding(place.folder, SECRET) == []
    assert SECRET not in out + err


def test_what_no_sweep_refers_to_is_removed(place: Place, cli: Any) -> None:
    place.on("a")
    assert cli(*place.run({**DOCUMENT, "train": {"epochs": 1, "batch_size": 128}})).code == 0
    place.on("b")
    found = json.loads(cli("gc", "--store", place.address, "--json").out)["found"]
    assert [item["state"] for item in found] == ["done"]
    assert found[0]["size"] > 100_000
    assert "Removed 1" in cli("gc", "--delete", "--store", place.address).out
    assert Bucket.open(place.address).entries("runs") == {}
    place.on("a")
    assert "0 runs" in cli("status", "--store", place.address).out
