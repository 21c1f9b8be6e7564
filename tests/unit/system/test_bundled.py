from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.spec.sweep import load_sweep
from rt_scale.system import paths
from rt_scale.system.paths import bundled_sweep, bundled_sweeps, install_command


def test_the_sweeps_that_people_read_come_with_the_package() -> None:
    root = Path(__file__).parents[3] / "sweeps"
    for path in root.rglob("*.yaml"):
        assert bundled_sweep(str(path.relative_to(root).with_suffix(""))).read_bytes() == path.read_bytes()
    found = bundled_sweeps()
    assert len(found) == len(list(root.rglob("*.yaml")))
    assert all("\n" not in purpose and len(purpose) > 20 for purpose in found.values())
    assert found["small/fig3"] == "The small twin of sweeps/paper/fig3.yaml (figures 3 and 17)"
    assert load_sweep(bundled_sweep("demo"))[0].name == "demo"


def test_the_command_that_installs_is_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("rt-scale[ffcv]") == "bash cluster/bootstrap.sh"
    monkeypatch.setattr(paths, "BOOTSTRAP", tmp_path / "bootstrap.sh")
    assert install_command("rt-scale[ffcv]") == "pip install 'rt-scale[ffcv]'"
