"""Under `uv run`, which Ray knows by the command lines of the processes above it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import rt_scale.ray_backend.cluster
from ray._private.runtime_env.uv_runtime_env_hook import _get_uv_run_cmdline
from ray._private.worker import _maybe_modify_runtime_env  # what ray.init asks, whatever its address
print(_get_uv_run_cmdline()[:2], _maybe_modify_runtime_env(None, False))
"""


@pytest.mark.parametrize("theirs", [None, "1"])
def test_ray_sends_no_folder_to_its_workers(tmp_path: Path, theirs: str | None) -> None:
    name = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if theirs is None else {name: theirs}
    (tmp_path / "run").write_text(f"{sys.executable} driver.py\nexit $?\n")
    (tmp_path / "driver.py").write_text(DRIVER)
    said = subprocess.run(
        ["uv", "run"], executable="/bin/sh", cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        check=True,
    ).stdout  # fmt: skip
    seen, _, sent = said.strip().partition("] ")
    assert seen == "['uv', 'run'"  # so it would
    assert (sent == "None") == (theirs is None)
    assert (str(tmp_path) in sent) == (theirs == "1")  # a user who wants it has it
