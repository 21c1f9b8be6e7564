"""What every test run starts with."""

from __future__ import annotations

import os

import pytest

# Ray gives its workers the niceness 15: beside a process that computes, another worker of xdist say, a run would get a
# thirtieth of a core, and a second would become half a minute.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_report_header(config: pytest.Config) -> str:
    """Say which real data the tests see."""
    given = os.environ.get("RT_SCALE_TEST_DATA")
    return f"real data: {given or 'the bundled digits alone (RT_SCALE_TEST_DATA is not set)'}"
