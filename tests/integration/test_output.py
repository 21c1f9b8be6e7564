"""Output that nobody reads, that has no room, or that is closed, in real pipes: it never ends the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.data.prepared import load_verified
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.integration.conftest import PROGRAM

Start = Callable[..., subprocess.Popen[str]]
SPEC: dict[str, Any] = {
    "data": {"name": "digits", "samples": 97},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 2, "batch_size": 32},
    "probe": {"every": "1ep", "knn": 5, "epochs": 2, "standardized": False},
}


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def in_shell(line: str) -> tuple[int, str, str]:
    """How the program ended, with what reached the outer streams, of a line of bash in which it is ``$P``."""
    ended = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "P": PROGRAM}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


FULL = "could not be written (No space left on device)"


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("$P schema run | head -n1", 0, "{\n", ""),
        ("$P schema run | true", 0, "", ""),
        ("PYTHONUNBUFFERED=1 $P schema run | head -n1", 0, "{\n", ""),
        ("$P --help | true", 0, "", ""),
        ("$P schema nonsense 2>&1 | true", 2, "", ""),
        ("$P schema run >&-", 0, "", ""),
        ("$P schema run <&- >&- 2>&-", 0, "", ""),
        ("$P schema nonsense 2>&-", 2, "", ""),
        ("$P schema run >/dev/full", 1, "", f"rt-scale: stdout {FULL}, so it is not complete.\n"),
        ("$P schema nonsense 2>/dev/full", 2, f"rt-scale: stderr {FULL}, so it is not complete.\n", ""),
        ("$P schema run >/dev/full 2>&1", 1, "", ""),
    ],
)
def test_a_command_that_prints(line: str, code: int, out: str, err: str) -> None:
    assert in_shell(line) == (code, out, err)


def test_work_goes_on_where_nobody_reads(tmp_path: Path, start: Start, unread: int) -> None:
    options: dict[str, Any] = {"stdout": unread, "stderr": subprocess.PIPE}
    process = start("data", "prepare", "digits", "--data-dir", tmp_path, **options)
    assert process.communicate(timeout=240) == (None, "")
    assert process.returncode == 0
    assert load_verified("digits", tmp_path) is not None

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SPEC))
    process = start("run", tmp_path / "run.yaml", "--store", tmp_path / "s", "--data-dir", tmp_path, **options)
    assert process.communicate(timeout=240) == (None, "")
    assert process.returncode == 0
    assert Store(tmp_path / "s").run(RunSpec.model_validate(SPEC)).result() is not None


def test_work_goes_on_where_the_log_is_full(tmp_path: Path, data_dir: Path, start: Start) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SPEC))
    with open("/dev/full", "w") as full:
        process = start(
            "run", tmp_path / "run.yaml", "--store", tmp_path / "s", "--data-dir", data_dir, stdout=full
        )  # fmt: skip
        _, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert err == f"rt-scale: stdout {FULL}, so it is not complete.\n"
    assert Store(tmp_path / "s").run(RunSpec.model_validate(SPEC)).result() is not None


def test_a_connection_that_breaks_is_told(start: Start) -> None:
    breaks = """
from rt_scale import cli
def breaks():
    raise BrokenPipeError(32, "Broken pipe")
cli.app.command("z")(breaks)
cli.main()
"""
    process = start("z", program=[sys.executable, "-c", breaks])
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("rt-scale: A connection broke off")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_without_checkpoints_ends_as_with_ctrl_c(number: int, start: Start) -> None:
    ends = "import os; from rt_scale import cli; cli.app.command('z')(lambda: os.kill(os.getpid(), {})); cli.main()"
    process = start("z", program=[sys.executable, "-c", ends.format(int(number))])
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("rt-scale: interrupted")
