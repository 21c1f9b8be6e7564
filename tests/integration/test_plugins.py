"""Plugins in real processes: they reach Ray's workers, and whoever only reads runs none of them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale import plugins
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration.conftest import TIMEOUT, Ended
from tests.integration.joining import Start
from tests.integration.several_nodes import Nodes

Cli = Callable[..., Ended]
NETS = """
from torch import nn
class Tiny(nn.Sequential):
    def __init__(self, channels, width=4):
        super().__init__(nn.Conv2d(channels, width, 3, 2), nn.ReLU(), nn.Flatten())
def shapes(train, labels, test, test_labels, *, classes, seed):
    return train.shape[1]
"""
SWEEP: dict[str, Any] = {
    "name": "mine",
    "import": ["mine_swept.nets"],
    "base": {
        "data": {"name": "digits", "samples": 128},
        "encoder": {"name": "Tiny"},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
        "train": {"epochs": 2, "batch_size": 64},
        "probe": {"every": "1ep", "epochs": 1, "standardized": False, "extra": [{"name": "shapes"}]},
    },
    "axes": {"encoder.args.width": [3, 4]},
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a package of the user's and a sweep that names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("mine_swept")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "mine_swept").mkdir()
    (tmp_path / "mine_swept" / "__init__.py").touch()
    (tmp_path / "mine_swept" / "nets.py").write_text(NETS)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SWEEP))
    return tmp_path


def test_a_sweep_of_plugins_is_read_elsewhere_without_them(start: Start, cli: Cli, mine: Path, data_dir: Path) -> None:
    where = ["--store", mine / "store"]
    plan = cli("plan", "mine.yaml", *where, "--data-dir", data_dir)
    assert plan.code == 0
    assert "a plan does not run the plugin mine_swept.nets:Tiny" in plan.out
    assert "mine_swept" not in sys.modules
    swept = start("sweep", "mine.yaml", *where, "--data-dir", data_dir, "--concurrency", 1)
    assert swept.wait(TIMEOUT) == 0, swept.communicate()
    store = Store(mine / "store")
    names = store.sweep("mine").runs()
    results = [store.run(name).result() for name in names]
    assert [result and result.last["extra/student/shapes"] for result in results] == [27, 36]
    assert names == [point.spec.name for point in load_sweep(mine / "mine.yaml")[1]]
    assert cli("bundle", "mine.yaml", *where).code == 0
    report = (mine / "store" / "sweeps" / "mine" / "report" / "report.md").read_text()
    assert "## Probes of plugins" in report
    assert "| 27 |" in report
    assert "shapes" in (mine / "store" / "sweeps" / "mine" / "report" / "report.html").read_text()

    # The plugin is another now: it would leave a trace.
    (mine / "mine_swept" / "nets.py").write_text(f"open({str(mine / 'ran')!r}, 'w').close()\n{NETS}")
    (mine / "mine_swept" / "__init__.py").write_text(f"open({str(mine / 'ran')!r}, 'w').close()\n")
    stored = mine / "store" / "sweeps" / "mine" / "sweep.yaml"
    for read in ([mine / "mine.tar.gz"], [stored, *where]):
        for command in (["status"], ["report"], ["export", "--to", "csv", "--out", mine / "exported"]):
            ended = cli(*command, *read)
            assert ended.code == 0, ended
            shutil.rmtree(mine / "exported", ignore_errors=True)
        found = json.loads(cli("status", *read, "--json").out)["runs"]
        assert {row["state"] for row in found} == {"done"}
        assert {row["name"] for row in found} == set(names)
    changed = cli("status", "mine.yaml", *where)
    assert "the source of encoder Tiny, probe shapes has changed since sweep 'mine' was run" in changed.err
    planned = cli("plan", "mine.yaml", *where, "--data-dir", data_dir)
    assert planned.code == 0
    assert not (mine / "ran").exists()
    refused = cli("sweep", "mine.yaml", *where, "--data-dir", data_dir).refusal()
    assert "has changed since sweep 'mine' was run" in refused
    (mine / "mine_swept" / "nets.py").unlink()  # nor does it need to be there
    assert cli("report", mine / "mine.tar.gz").code == 0
    assert not (mine / "ran").exists() or "--yes" in refused


def test_a_plugin_reaches_the_machines_of_a_cluster(nodes: Nodes, start: Start, mine: Path, data_dir: Path) -> None:
    # It runs only from where Ray has unpacked it: the workers do not know the folder, as on another machine.
    text = f"import os\nassert 'py_modules' in __file__ or 'MINE_DRIVER' in os.environ, __file__\n{NETS}"
    (mine / "mine_swept" / "nets.py").write_text(text)
    nodes("add", 1)
    where = ["--store", mine / "store", "--data-dir", data_dir, "--address", nodes.address]
    known = f"{nodes.environment['PYTHONPATH']}:{mine}"
    (mine / "elsewhere").mkdir()
    environment = {**nodes.environment, "PYTHONPATH": known, "MINE_DRIVER": "1"}
    swept = start("sweep", mine / "mine.yaml", *where, "--concurrency", 1, env=environment, cwd=mine / "elsewhere")
    assert swept.wait(TIMEOUT) == 0, swept.communicate()


def test_an_installed_plugin_is_refused_before_it_meets_nodes_without_it(
    nodes: Nodes, start: Start, mine: Path, data_dir: Path
) -> None:
    installed = mine / "site-packages"
    installed.mkdir()
    (mine / "mine_swept").rename(installed / "mine_swept")
    for _ in range(2):
        nodes("add", 1)
    where = ["--store", mine / "store", "--data-dir", data_dir, "--address", nodes.address]
    (mine / "elsewhere").mkdir()
    environment = {**nodes.environment, "PYTHONPATH": f"{nodes.environment['PYTHONPATH']}:{installed}"}
    swept = start("sweep", mine / "mine.yaml", *where, env=environment, cwd=mine / "elsewhere")
    out, err = swept.communicate(timeout=TIMEOUT)
    refused = Ended(swept.returncode, out, err).refusal()
    # The head has no CPUs for runs, and is not asked.
    for plugin in ("Tiny", "shapes"):
        assert re.search(rf"'mine_swept.nets:{plugin}' is missing on ([\d.]+), \1[;.]", refused), refused
    assert not (mine / "store" / "runs").exists()


BAD = {
    "raises": ("width = 1 / 0", "ZeroDivisionError"),
    "exits": ("import sys\nsys.exit(0)", "it ends Python"),
    "prints": ("print('hello')", "prints when it is imported: 'hello'"),
    "broken": ("def (", "line 2 is not Python"),
    "other": ("class Tiny: pass", "gives <mine_swept.nets.Tiny"),
    "maps": ("from torch import nn\ndef Tiny():\n return nn.Conv2d(1, 2, 3)", "[2, 2, 6, 6]"),
    "missing": ("class Tyni: pass", "Unknown encoder 'Tiny'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_encoder_is_one_paragraph(cli: Cli, mine: Path, data_dir: Path, name: str) -> None:
    text, words = BAD[name]
    (mine / "mine_swept" / "nets.py").write_text(f"'A module of the user.'\n{text}\n")
    base = {key: value for key, value in SWEEP["base"].items() if key != "probe"}
    (mine / "spec.yaml").write_text(yaml.safe_dump({**base, "import": SWEEP["import"]}))
    where = ["--store", mine / "store", "--data-dir", data_dir]
    if name in ("raises", "exits", "prints"):
        (mine / "mine_swept" / "nets.py").write_text(f"class Tiny: pass\n{text}\n")
    assert words in cli("run", "spec.yaml", *where).refusal()
    assert not (mine / "store" / "runs").exists()
