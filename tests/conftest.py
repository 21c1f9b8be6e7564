"""What every test run starts with."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Ray gives its workers the niceness 15: beside a process that computes, another worker of xdist say, a run would get a
# thirtieth of a core, and a second would become half a minute.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks of the tests are so small that torch's threads only wait for each other: ten times as long, say.

    Beside other workers of xdist even longer. Tests that need more set their own; processes that tests start are free.
    """
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_lost() -> None:
    """What an earlier test told this process of lost ones is forgotten."""
    if (lease := sys.modules.get("rt_scale.store.lease")) is not None:
        lease._lost.clear()


class _Files(LoadFileScheduling):
    """A file is one worker's, and so are all of tests/integration/clusters: each of them keeps both cores busy."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "clusters" if file.startswith("tests/integration/clusters/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Files | None:
    """Distribute the tests, unless another way was asked for."""
    return _Files(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_report_header(config: pytest.Config) -> str:
    """Say which real data the tests see."""
    given = os.environ.get("RT_SCALE_TEST_DATA")
    return f"real data: {given or 'the bundled digits alone (RT_SCALE_TEST_DATA is not set)'}"
