"""The specs of the golden store's runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from rt_scale.spec.document import resolve_same
from rt_scale.spec.run import RunSpec

HERE = Path(__file__).parent
DOCUMENTS = yaml.safe_load((HERE / "runs.yaml").read_text())
"""What became of a run -> its spec as a user writes it."""


def document(label: str) -> str:
    """The spec file of the run that is known by what became of it."""
    return yaml.safe_dump(DOCUMENTS[label], sort_keys=False)


def spec_of(label: str) -> RunSpec:
    """Its spec."""
    return RunSpec.model_validate(resolve_same(DOCUMENTS[label]))
