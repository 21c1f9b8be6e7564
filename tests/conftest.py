"""What every test run starts with."""

from __future__ import annotations

import os

import pytest


def pytest_report_header(config: pytest.Config) -> str:
    """Say which real data the tests see."""
    given = os.environ.get("RT_SCALE_TEST_DATA")
    return f"real data: {given or 'the bundled digits alone (RT_SCALE_TEST_DATA is not set)'}"
