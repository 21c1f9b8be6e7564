"""docs/analyses.md: every file on it is a spec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from rt_scale.spec.document import build_run, resolve_same
from rt_scale.spec.experiments.landscape import Measure
from rt_scale.spec.yaml_files import parse_yaml

PAGE = (Path(__file__).parents[3] / "docs" / "analyses.md").read_text()
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", FILES, ids=lambda text: text.splitlines()[0])
def test_files_are_specs(text: str) -> None:
    document = parse_yaml(text, "analyses.md")
    assert build_run(resolve_same(document), "analyses.md").kind == document["kind"]


def test_every_measure_is_explained() -> None:
    names = {re.sub("_(train|test)$", "_<split>", name) for name in get_args(Measure)}
    assert names <= set(re.findall(r"`([a-z_<>]+)`", PAGE))
