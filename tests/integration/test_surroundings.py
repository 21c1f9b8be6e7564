"""Whole commands where the machine gives little: no home directory, no user's entry, ASCII output, odd paths."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import TIMEOUT, Ended

RUN: dict[str, Any] = {
    "data": {"name": "digits", "samples": 60},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "student": {"alpha": 0.5},
    "train": {"epochs": 1, "batch_size": 32},
    "probe": {"every": "1ep", "knn": 5, "epochs": 1, "standardized": False},
}
STORE = "s[/end]\x1b[31m\u00fc"
SHOWN = r"s[/end]\x1b[31m\xfc"
"""How it is shown in ASCII."""
NO_ENTRY = """
import pwd

def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = getpwuid
"""
Command = Callable[..., Ended]


@pytest.fixture
def command(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Command:
    """Runs ``rt-scale`` as a user of whom the system knows nothing, on a terminal that knows ASCII alone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_ENTRY)  # for the workers of Ray, too
    (tmp_path / "tmp").mkdir()
    gone = {"HOME", "USER", "LOGNAME", "USERNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "RT_SCALE_DATA", "PYTHONUTF8"}
    env = {name: value for name, value in os.environ.items() if name not in gone and not name.startswith("RAY_AUTH")}
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env |= {"PYTHONPATH": path, "PYTHONIOENCODING": "ascii", "TMPDIR": str(tmp_path / "tmp"), "RAY_TMPDIR": "/tmp"}

    def run(*arguments: object) -> Ended:
        process = start(*arguments, cwd=tmp_path, env=env)
        out, err = process.communicate(timeout=TIMEOUT)
        return Ended(process.returncode, out, err)

    return run


def test_commands_without_a_home_on_an_ascii_terminal(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    place = tmp_path / "tmp" / f"rt-scale-{os.geteuid()}" / "rt-scale"
    done = command("run", "run.yaml", "--store", STORE, "--device", "cpu", "--threads", 1)
    assert done.code == 0, done.err
    assert f"in {SHOWN}/runs/distill-" in done.out
    assert done.err.count(str(place)) == 1
    assert (place / "digits" / "meta.json").is_file()
    for arguments in (["data", "list"], ["status", "--store", STORE], ["doctor", "--store", STORE]):
        done = command(*arguments)
        assert done.code == 0, done.err
    assert SHOWN in done.out
    assert str(place) in done.out


def test_a_sweep_without_a_home_on_an_ascii_terminal(command: Command, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"name": "two", "base": RUN, "seeds": 2}))
    done = command("sweep", "two.yaml", "--store", STORE, "--device", "cpu", "--concurrency", 1)
    assert done.code == 0, done.out + done.err
    assert "2 of 2 runs finished" in done.out
    assert " +- " in done.out
    assert re.search(r"^open file:///\S+/sweeps/two/report/report\.html$", done.out, re.MULTILINE)
    own = tmp_path / "tmp" / f"rt-scale-{os.geteuid()}"
    assert (own / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    refused = command("report", "[/end]\u00fc.yaml", "--store", STORE)
    assert r"There is no file [/end]\xfc.yaml" in refused.refusal()
