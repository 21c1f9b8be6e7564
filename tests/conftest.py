"""What every test run starts with."""

from __future__ import annotations

import os

import pytest

LONG = (
    {"test_faults.py", "test_cluster_nodes.py"},
    {
        *("test_sweep.py", "test_resume.py", "test_workers.py", "test_s3_store.py", "test_start_from.py"),
        *("test_constants.py", "test_known_numbers.py"),
    },
)
"""Files of tests/integration that take minutes, in two shares of about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, on both processes at once.

    Each has half of the list at first, and when it is through takes from the end of what the other still has
    (pytest-xdist's worksteal): the ends should be short tests, so that none waits for the other's last long one.
    """
    shares = [[item for item in items if _is_one_of(item, names)] for names in LONG]
    rest = [item for item in items if not any(_is_one_of(item, names) for names in LONG)]
    cut = max(0, len(items) // 2 - len(shares[0]))
    items[:] = [*shares[0], *rest[:cut], *shares[1], *rest[cut:]]


def _is_one_of(item: pytest.Item, names: set[str]) -> bool:
    return item.path.parent.name == "integration" and item.path.name in names


def pytest_report_header(config: pytest.Config) -> str:
    """Say which real data the tests see."""
    given = os.environ.get("RT_SCALE_TEST_DATA")
    return f"real data: {given or 'the bundled digits alone (RT_SCALE_TEST_DATA is not set)'}"
