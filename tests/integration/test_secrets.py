"""What the environment holds stays there: no secret in a run directory, a sweep's folder, a table or a log."""

from __future__ import annotations

import secrets
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rt_scale.store.store import Store
from tests.receiver import receiving

PLANTED = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "DATABASE_URL")
SWEEP: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "data": {"name": "digits", "samples": 60},
        "encoder": {"name": "convnet_4_1", "norm": "batch"},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
        "train": {"epochs": 1, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.001}},
        "probe": {"knn": 5, "epochs": 1, "standardized": False},
    },
    "axes": {"train.optimizer.lr": [0.001, 1e38]},
}
"""A run that ends well, and one that fails, with its traceback."""


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is inside it where it is compressed."""
    yield str(path).encode()
    yield path.read_bytes()
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        yield repr((file.metadata, file.schema_arrow.metadata)).encode()
        yield repr(file.read().to_pylist()).encode()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def holding(folder: Path, secret: str) -> list[Path]:
    """The files and links under ``folder`` that hold the secret, in their names, too."""
    found = []
    for path in sorted(folder.rglob("*")):
        texts = [str(path).encode()] if path.is_dir() else contents(path)
        if any(secret.encode() in text for text in texts):
            found.append(path)
    return found


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment with a planted secret in each of several variables; ours has them, too."""
    planted = {name: f"planted-{secrets.token_hex(16)}" for name in PLANTED}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    return planted


def test_no_secret_of_the_environment_is_written_anywhere(
    environment: dict[str, str], tmp_path: Path, data_dir: Path, start: Callable[..., Any], cli: Callable[..., Any]
) -> None:
    store, file = Store(tmp_path / "store"), tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    where = ["--store", store.root]
    told = f"planted-{secrets.token_hex(16)}"
    with receiving() as got:
        given = ["--data-dir", data_dir, "--notify", f"{got.url}/{told}"]
        process: subprocess.Popen[str] = start("sweep", file, *where, *given, "--concurrency", 1)
        out, err = process.communicate(timeout=480)
    shown = [out, err]
    assert (got.events, set(got.paths)) == (["run_failed", "sweep_ended"], {f"/{told}"})
    assert got.documents[0]["failed"] == got.documents[1]["failed"]
    assert Path(got.documents[1]["report"], "report.md").is_file()
    assert {store.status(run.name).state for run in store} == {"done", "failed"}, shown
    for arguments in (["export", file, "--to", "csv"], ["export", file, "--to", "parquet"], ["status"], ["gc"]):
        ended = cli(*arguments, *where)
        assert ended.code == 0, ended
        shown += [ended.out, ended.err]
    files = {path.name for path in store.root.rglob("*") if path.is_file()}
    assert {"failure.json", "environment.json", "state.pt", "runs.csv", "runs.parquet", "report.md"} <= files
    for secret in (*environment.values(), told):
        assert holding(store.root, secret) == []
        assert not any(secret in text for text in shown)


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """In plain files, names, links, and compressed ones: long runs of it are not in the bytes as they are."""
    secret = "planted-0123456789abcdef"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").write_text(f"x{secret}y")
    (tmp_path / f"named-{secret}").mkdir()
    pq.write_table(pa.table({"x": [secret] * 9}), tmp_path / "a" / "t.parquet", compression="zstd")
    with zipfile.ZipFile(tmp_path / "state.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", 9 * secret)
    (tmp_path / "clean.txt").write_text("planted")
    found = {path.name for path in holding(tmp_path, secret)}
    assert found == {"log.txt", "t.parquet", "state.pt", f"named-{secret}"}
